package node

import "sync"

// signals wakes those who wait for news of what a node has.
type signals struct {
	mu      sync.Mutex
	waiting map[string]chan struct{} // by node; an entry lasts until its signal
}

func (s *signals) of(node string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	signal, ok := s.waiting[node]
	if !ok {
		signal = make(chan struct{})
		s.waiting[node] = signal
	}
	return signal
}

func (s *signals) changed(obj any) {
	node := nodeOf(obj)
	if node == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if signal, ok := s.waiting[node]; ok {
		close(signal)
		delete(s.waiting, node)
	}
}
