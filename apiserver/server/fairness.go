package server

import (
	"runtime"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
)

const (
	// eventCost is the time of a processor that it takes to tell one watch of a change, when thousands are told (ADR 3).
	eventCost = 4 * time.Microsecond
	// assumedEventCost is what priority and fairness reckons for it, in the time of a seat: 5 ms for ten watches (KEP-1040).
	assumedEventCost = 500 * time.Microsecond
)

// fairness is priority and fairness that knows what a write costs here. A level of few seats would otherwise be held by a few writes, which
// thousands watch, for seconds.
type fairness struct {
	utilflowcontrol.Interface
	weight float64 // of a watch in the cost of a write
}

// withEventCost has the requests of a server weighed with its own seats and processors.
func withEventCost(c *genericapiserver.Config) *genericapiserver.Config {
	if c.FlowControl == nil {
		return c
	}
	weighed := *c
	weighed.FlowControl = fairness{c.FlowControl, watchWeight(c.MaxRequestsInFlight+c.MaxMutatingRequestsInFlight, runtime.GOMAXPROCS(0))}
	return &weighed
}

// watchWeight is what an event costs, in the time of one of so many seats that share so many processors, beside what is assumed.
func watchWeight(seats, processors int) float64 {
	cost := float64(eventCost) * float64(seats) / float64(processors)
	return min(1, cost/float64(assumedEventCost))
}

// GetInterestedWatchCount implements utilflowcontrol.WatchTracker.
func (f fairness) GetInterestedWatchCount(info *request.RequestInfo) int {
	return int(float64(f.Interface.GetInterestedWatchCount(info)) * f.weight)
}
