package cri

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/clock"
)

const (
	reconnectDelay = time.Second     // between attempts to reach a runtime that went away
	relistPeriod   = 2 * time.Second // for a runtime without events
	relists        = 30              // of one that is not asked for events again: it may be a newer one by then
	eventBuffer    = 256             // a burst of container events that may wait for us
)

// Follow tells of every change in the runtime until ctx ends: changed is called with the pod's UID, and resync whenever events may
// have been lost, which is at the start and after each reconnection. A runtime without an event stream is asked again and again.
func (c *Client) Follow(ctx context.Context, clk clock.WithTicker, changed func(types.UID), resync func()) {
	logger := klog.FromContext(ctx)
	for ctx.Err() == nil {
		err := c.followOnce(ctx, changed, resync)
		if ctx.Err() != nil {
			return
		}
		delay, times := reconnectDelay, 1
		if status.Code(err) == codes.Unimplemented {
			delay, times = relistPeriod, relists
		} else {
			logger.Info("Container event stream ended, reconnecting", "err", err)
		}
		for range times {
			select {
			case <-ctx.Done():
				return
			case <-clk.After(delay):
				resync()
			}
		}
	}
}

func (c *Client) followOnce(ctx context.Context, changed func(types.UID), resync func()) error {
	events := make(chan *runtimeapi.ContainerEventResponse, eventBuffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range events {
			if uid := e.GetPodSandboxStatus().GetLabels()[kubelettypes.KubernetesPodUIDLabel]; uid != "" {
				changed(types.UID(uid))
			} else {
				resync() // the sandbox is gone already: nobody can say whose event this is
			}
		}
	}()
	err := c.Runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { resync() })
	close(events)
	<-done
	return err
}

func isNotFound(err error) bool { return err != nil && status.Code(err) == codes.NotFound }

// IsNotFound reports whether the runtime does not know what it was asked about.
func IsNotFound(err error) bool { return isNotFound(err) }
