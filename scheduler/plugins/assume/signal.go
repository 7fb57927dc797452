package assume

import "sync"

// Signal wakes everyone who waits for a change.
type Signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// NewSignal returns a signal.
func NewSignal() *Signal { return &Signal{ch: make(chan struct{})} }

// Next returns a channel that is closed by the next change. Take it before looking at what may change.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

// Raise tells of a change.
func (s *Signal) Raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
