package main

import (
	"context"
	"errors"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// slow is a runtime service that starts a container when it may, unless it is given up before.
type slow struct {
	cri.UnimplementedRuntimeServiceServer

	begun chan struct{}
	may   chan struct{}
}

func (s slow) StartContainer(ctx context.Context, _ *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	close(s.begun)
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.may:
		return &cri.StartContainerResponse{}, ctx.Err()
	}
}

// service is built as containerd builds its own.
type service struct{ cri.RuntimeServiceServer }

type serviceWithTCP struct{ *service }

func TestStartIsCompleted(t *testing.T) {
	for name, wrap := range map[string]func(*service) any{
		"plain": func(s *service) any { return s },
		"TCP":   func(s *service) any { return serviceWithTCP{s} },
	} {
		t.Run(name, func(t *testing.T) {
			runtime := slow{begun: make(chan struct{}), may: make(chan struct{})}
			s := &service{runtime}
			if err := completeStarts(wrap(s)); err != nil {
				t.Fatal(err)
			}
			ctx, hangUp := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				_, err := s.StartContainer(ctx, &cri.StartContainerRequest{})
				done <- err
			}()
			<-runtime.begun
			hangUp()
			close(runtime.may)
			if err := <-done; err != nil {
				t.Errorf("a start whose caller hung up: %v", err)
			}
		})
	}
}

func TestStartKeepsDeadline(t *testing.T) {
	s := &service{slow{begun: make(chan struct{})}}
	if err := completeStarts(s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.StartContainer(ctx, &cri.StartContainerRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start that takes longer than its caller gives it: %v", err)
	}
}

func TestOtherService(t *testing.T) {
	for _, other := range []any{nil, 1, struct{}{}, service{}} {
		if err := completeStarts(other); err == nil {
			t.Errorf("%T was taken for a CRI service", other)
		}
	}
}
