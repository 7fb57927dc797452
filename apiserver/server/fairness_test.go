package server

import (
	"math"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
)

func TestWatchWeight(t *testing.T) {
	for _, test := range []struct {
		seats, processors int
		want              float64
	}{
		{60, 2, 0.24},
		{600, 20, 0.24},
		{600, 64, 0.075},
		{600, 2, 1},
		{0, 2, 0},
	} {
		if got := watchWeight(test.seats, test.processors); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%d seats on %d processors: %v, want %v", test.seats, test.processors, got, test.want)
		}
	}
}

// watched is priority and fairness as far as it counts watches.
type watched struct {
	utilflowcontrol.Interface
	watches int
}

func (w watched) GetInterestedWatchCount(*request.RequestInfo) int { return w.watches }

func TestWatchesAreWeighed(t *testing.T) {
	c := &genericapiserver.Config{FlowControl: watched{watches: 100}, MaxMutatingRequestsInFlight: 1 << 20}
	if got := withEventCost(c).FlowControl.GetInterestedWatchCount(nil); got != 100 {
		t.Errorf("%d of 100 count where seats are many", got)
	}
	c.MaxMutatingRequestsInFlight = 0
	if got := withEventCost(c).FlowControl.GetInterestedWatchCount(nil); got != 0 {
		t.Errorf("%d of 100 count where there is no seat", got)
	}
	if c.FlowControl.GetInterestedWatchCount(nil) != 100 {
		t.Error("the configuration itself was changed")
	}
	if withEventCost(&genericapiserver.Config{}).FlowControl != nil {
		t.Error("priority and fairness came from nowhere")
	}
}
