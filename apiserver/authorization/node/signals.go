package node

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// signals wakes those who wait for news of a node's pods.
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

func (s *signals) podChanged(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if signal, ok := s.waiting[pod.Spec.NodeName]; ok {
		close(signal)
		delete(s.waiting, pod.Spec.NodeName)
	}
}
