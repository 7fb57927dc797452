package volumebinding

import (
	"context"
	"math"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

// emptiest is the curve of VolumeBindingArgs.shape without one: what leaves most room is best.
var emptiest = []configv1.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}

// PreScore implements fwk.PreScorePlugin.
func (*Plugin) PreScore(_ context.Context, state fwk.CycleState, _ *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	if _, err := read(state); err != nil {
		return fwk.NewStatus(fwk.Skip) // a pod without claims
	}
	return nil
}

// Score implements fwk.ScorePlugin: how full the pod's claims would make the volumes that they take on the node, or, if they take
// none, the storage that new ones are made of (KEP-4049). Storage classes count alike.
func (p *Plugin) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	s, err := read(state)
	if err != nil {
		return 0, fwk.AsStatus(err)
	}
	classes := s.plans.get(node.Node().Name).use()
	if len(classes) == 0 {
		return 0, nil
	}
	var sum int64
	for _, u := range classes {
		utilization := int64(100)
		if u.requested <= u.capacity && u.capacity > 0 {
			utilization = u.requested * 100 / u.capacity
		}
		sum += p.curve(utilization)
	}
	return int64(math.Round(float64(sum) / float64(len(classes)))), nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (*Plugin) ScoreExtensions() fwk.ScoreExtensions { return nil }

// ScoreFollowsFilter implements profile.ScoreFollowsFilter.
func (*Plugin) ScoreFollowsFilter() {}

// storage is what is asked of a storage class on one node and what is there, in bytes.
type storage struct{ requested, capacity int64 }

func (p plan) use() map[string]storage {
	out := map[string]storage{}
	for _, b := range p.static {
		u, size := out[b.volume.Spec.StorageClassName], b.volume.Spec.Capacity[corev1.ResourceStorage]
		out[b.volume.Spec.StorageClassName] = storage{u.requested + requestOf(b.claim), u.capacity + size.Value()}
	}
	if len(p.static) > 0 {
		return out
	}
	for i, claim := range p.provisioned {
		if c := p.room[i]; c != nil { // the claims of a class share it
			out[c.StorageClassName] = storage{out[c.StorageClassName].requested + requestOf(claim), c.Capacity.Value()}
		}
	}
	return out
}

func requestOf(claim *corev1.PersistentVolumeClaim) int64 {
	request := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return request.Value()
}
