package nodelifecycle

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
)

// Rates of eviction, in nodes per second and zone. When most nodes of a zone are lost at once, the network is the likelier cause,
// and moving everybody would only make it worse.
const (
	normalRate        rate.Limit = 0.1
	disruptedRate     rate.Limit = 0.01
	largeZone                    = 50 // nodes; smaller zones do not evict at all while disrupted
	unhealthyFraction            = 0.55
	retryBlocked                 = 10 * time.Second
)

// zoneState says how much of a zone is lost.
type zoneState int

const (
	zoneNormal zoneState = iota
	zonePartlyLost
	zoneLost
)

// stateOf judges a zone by its numbers of ready nodes and others.
func stateOf(ready, others int) zoneState {
	switch {
	case ready == 0 && others > 0:
		return zoneLost
	case others > 2 && float64(others)/float64(ready+others) >= unhealthyFraction:
		return zonePartlyLost
	}
	return zoneNormal
}

// rateOf returns how fast a zone of that size may evict. allLost means that every zone is lost: then it is us who are cut off, and
// nobody is evicted.
func rateOf(state zoneState, size int, allLost bool) rate.Limit {
	switch {
	case allLost:
		return 0
	case state == zonePartlyLost && size > largeZone:
		return disruptedRate
	case state == zonePartlyLost:
		return 0
	}
	return normalRate
}

// zones limits evictions. It is safe for concurrent use.
type zones struct {
	mu       sync.Mutex
	limiters map[string]*rate.Limiter
}

func newZones() *zones { return &zones{limiters: map[string]*rate.Limiter{}} }

// leaving says whether the pods of a node that is not ready are to go.
type leaving int

const (
	asBefore leaving = iota // the zone's rate does not allow it now; what was decided earlier stands
	evict
	spare // all nodes are lost, so it is us who are cut off: what was decided earlier is taken back
)

// allow says whether the node's pods are to be sent away now, and when to ask again.
func (z *zones) allow(node *corev1.Node, all []*corev1.Node, now time.Time) (leaving, time.Duration) {
	zone := zoneOf(node)
	ready, others, lost := map[string]int{}, map[string]int{}, true
	for _, n := range all {
		if n.Name != node.Name && readyStatus(n) == corev1.ConditionTrue { // node itself may not be ready later than the cache says
			ready[zoneOf(n)]++
			lost = false
		} else {
			others[zoneOf(n)]++
		}
	}
	if !lost && (hasTaint(node, corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute) || hasTaint(node, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)) {
		return evict, retryBlocked // decided already
	}
	limit := rateOf(stateOf(ready[zone], others[zone]), ready[zone]+others[zone], lost)
	z.mu.Lock()
	defer z.mu.Unlock()
	limiter := z.limiters[zone]
	if limiter == nil {
		limiter = rate.NewLimiter(limit, 1)
		z.limiters[zone] = limiter
	}
	if limiter.Limit() != limit {
		limiter.SetLimitAt(now, limit)
	}
	switch {
	case lost:
		return spare, retryBlocked
	case limit > 0 && limiter.AllowN(now, 1):
		return evict, retryBlocked
	}
	return asBefore, retryBlocked
}

func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + ":\x00:" + node.Labels[corev1.LabelTopologyZone]
}
