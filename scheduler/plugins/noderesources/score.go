package noderesources

import (
	"context"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/dynamic-resource-allocation/cel"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/nodeinfo"
)

// usage is one resource on one node: what is taken of it now, and what would be if the pod were there.
type usage struct{ before, requested, allocatable, weight int64 }

// formula turns the usages of a node into a score in [0, fwk.MaxScore].
type formula func([]usage) int64

// scorer implements the score part of a plugin.
type scorer struct {
	resources []configv1.ResourceSpec
	formula   formula
	// actual counts what containers request; otherwise CPU and memory are counted with the defaults for containers without.
	actual bool
	dra    fwk.SharedDRAManager // nil: no devices
	cel    *cel.Cache
}

func newScorer(h fwk.Handle, resources []configv1.ResourceSpec, f formula) scorer {
	if len(resources) == 0 {
		resources = []configv1.ResourceSpec{{Name: string(corev1.ResourceCPU)}, {Name: string(corev1.ResourceMemory)}}
	}
	return scorer{
		resources: resources, formula: f, dra: h.SharedDRAManager(), cel: cel.NewCache(celCacheSize, cel.Features{EnableConsumableCapacity: true}),
	}
}

// podUsage is what the pod requests of each of the scorer's resources, and the devices that may stand for them; nil: none.
type podUsage struct {
	amounts []int64
	devices offer
}

// Clone implements fwk.StateData.
func (p podUsage) Clone() fwk.StateData { return p }

func (s *scorer) key() fwk.StateKey {
	if s.actual {
		return "PreScore" + BalancedName
	}
	return "PreScore" + FitName
}

// PreScore implements fwk.PreScorePlugin.
func (s *scorer) PreScore(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	use := s.usageOf(pod)
	if s.actual && allZero(use.amounts) {
		return fwk.NewStatus(fwk.Skip) // the pod changes no balance
	}
	var err error
	if use.devices, err = s.offer(ctx); err != nil {
		return fwk.AsStatus(err)
	}
	state.Write(s.key(), use)
	return nil
}

func allZero(values []int64) bool {
	for _, v := range values {
		if v != 0 {
			return false
		}
	}
	return true
}

func (s *scorer) usageOf(pod *corev1.Pod) podUsage {
	list := nodeinfo.PodRequests(pod)
	requests := nodeinfo.NewResource(list)
	if !s.actual {
		requests.MilliCPU, requests.Memory = nodeinfo.NonZeroRequests(pod, list)
	}
	use := podUsage{amounts: make([]int64, len(s.resources))}
	for i, spec := range s.resources {
		use.amounts[i] = requests.Of(corev1.ResourceName(spec.Name))
	}
	return use
}

// Score implements fwk.ScorePlugin.
func (s *scorer) Score(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	use, err := state.Read(s.key())
	if err != nil {
		use = s.usageOf(pod) // a caller that runs scores alone
	}
	return s.rate(use.(podUsage), node, nil), nil
}

// rate scores a node; usages is room to work in.
func (s *scorer) rate(use podUsage, node fwk.NodeInfo, usages []usage) int64 {
	for i, spec := range s.resources {
		name, mine := corev1.ResourceName(spec.Name), use.amounts[i]
		if mine == 0 && scalar(name) {
			continue
		}
		u := usage{allocatable: nodeinfo.OfInterface(node.GetAllocatable(), name), weight: max(spec.Weight, 1)}
		requested := node.GetRequested()
		if !s.actual && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			requested = node.GetNonZeroRequested()
		}
		u.before = nodeinfo.OfInterface(requested, name)
		if u.allocatable == 0 && use.devices != nil && scalar(name) {
			u.allocatable, u.before = use.devices(name, node.Node())
		}
		if u.allocatable == 0 {
			continue
		}
		u.requested = u.before + mine
		usages = append(usages, u)
	}
	return s.formula(usages)
}

// LocalScore implements columns.LocalScore. Pods whose resources come from devices are not decided on columns.
func (s *scorer) LocalScore(t *columns.Table, pod fwk.PodInfo) columns.Score {
	use := s.usageOf(pod.GetPod())
	if s.actual && allZero(use.amounts) {
		return nil
	}
	return &scoreColumn{s, t, use, make([]usage, 0, len(s.resources))}
}

type scoreColumn struct {
	*scorer
	table  *columns.Table
	use    podUsage
	usages []usage
}

// Rate implements columns.Score.
func (c *scoreColumn) Rate(slots []int32, raw []int64) {
	for _, slot := range slots {
		raw[slot] = c.rate(c.use, c.table.Nodes[slot], c.usages[:0])
	}
}

// OfNode implements columns.Score.
func (*scoreColumn) OfNode() bool { return false }

// Scale implements columns.Score.
func (*scoreColumn) Scale() columns.Scale { return columns.AsIs }

// ScoreExtensions implements fwk.ScorePlugin.
func (*scorer) ScoreExtensions() fwk.ScoreExtensions { return nil }

func scalar(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func weightedMean(usages []usage, score func(usage) int64) int64 {
	var sum, weights int64
	for _, u := range usages {
		sum += score(u) * u.weight
		weights += u.weight
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

func leastAllocated(usages []usage) int64 {
	return weightedMean(usages, func(u usage) int64 {
		return max(0, (u.allocatable-u.requested)*fwk.MaxScore/u.allocatable)
	})
}

func mostAllocated(usages []usage) int64 {
	return weightedMean(usages, func(u usage) int64 {
		return min(u.requested, u.allocatable) * fwk.MaxScore / u.allocatable
	})
}

// Curve goes through points of utilization (in %) and score (0 to 10, of which the curve makes 0 to fwk.MaxScore).
func Curve(shape []configv1.UtilizationShapePoint) func(utilization int64) int64 {
	const scale = fwk.MaxScore / 10
	return func(utilization int64) int64 {
		prev := shape[0]
		for _, point := range shape {
			if utilization > int64(point.Utilization) {
				prev = point
				continue
			}
			from, to := int64(prev.Score)*scale, int64(point.Score)*scale
			if point == prev {
				return to
			}
			return from + (to-from)*(utilization-int64(prev.Utilization))/int64(point.Utilization-prev.Utilization)
		}
		return int64(prev.Score) * scale
	}
}

// capacityRatio scores by a curve. A resource that the curve gives nothing does not count, as upstream has it.
func capacityRatio(shape []configv1.UtilizationShapePoint) formula {
	at := Curve(shape)
	return func(usages []usage) int64 {
		var sum, weights int64
		for _, u := range usages {
			utilization := int64(100)
			if u.requested <= u.allocatable {
				utilization = u.requested * 100 / u.allocatable
			}
			if score := at(utilization); score > 0 {
				sum += score * u.weight
				weights += u.weight
			}
		}
		if weights == 0 {
			return 0
		}
		return int64(math.Round(float64(sum) / float64(weights)))
	}
}

// BalancedName is the name of the plugin that keeps a node's resources in proportion.
const BalancedName = "NodeResourcesBalancedAllocation"

// Balanced prefers nodes on which CPU and memory would be used to a similar degree, so that neither strands the other.
type Balanced struct{ scorer }

// NewBalanced makes the plugin.
func NewBalanced(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	var resources []configv1.ResourceSpec
	if a, ok := args.(*configv1.NodeResourcesBalancedAllocationArgs); ok {
		resources = a.Resources
	}
	b := &Balanced{newScorer(h, resources, balance)}
	b.actual = true
	return b, nil
}

// Name implements fwk.Plugin.
func (*Balanced) Name() string { return BalancedName }

// EventsToRegister implements fwk.EnqueueExtensions: it refuses no pod.
func (*Balanced) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return nil, nil
}

// balance scores what the pod does to the balance of the node: 75 leaves it as it is, 100 mends and 50 destroys it.
func balance(usages []usage) int64 {
	with := evenness(usages, func(u usage) int64 { return u.requested })
	without := evenness(usages, func(u usage) int64 { return u.before })
	return fwk.MaxScore/2 + (fwk.MaxScore/2+with-without)/2
}

// evenness is 1 minus the standard deviation of the used fractions, in the framework's range.
func evenness(usages []usage, used func(usage) int64) int64 {
	fraction := func(u usage) float64 { return min(1, float64(used(u))/float64(u.allocatable)) }
	var mean, variance float64
	for _, u := range usages {
		mean += fraction(u)
	}
	mean /= float64(len(usages))
	deviation := 0.0
	switch len(usages) {
	case 0, 1:
	case 2:
		deviation = math.Abs((fraction(usages[0]) - fraction(usages[1])) / 2)
	default:
		for _, u := range usages {
			variance += (fraction(u) - mean) * (fraction(u) - mean)
		}
		deviation = math.Sqrt(variance / float64(len(usages)))
	}
	return int64((1 - deviation) * float64(fwk.MaxScore))
}
