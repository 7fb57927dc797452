package columns

import (
	corev1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

// LocalFilter is a filter plugin whose answer about a node follows from the pod's template (see Template) and from that node.
type LocalFilter interface {
	fwk.FilterPlugin
	// LocalFilter returns the filter for pods like this one; nil if it lets them onto every node.
	LocalFilter(t *Table, pod fwk.PodInfo) Filter
}

// Filter is a compiled filter. Its refusals name the plugin, and there are few: equal ones are the same object.
type Filter interface {
	// Refuse sets the refusal of each given slot that has none. The slots have nodes.
	Refuse(slots []int32, refused []*fwk.Status)
	// OfNode says that the answer follows from the Node alone, whatever pods are on it.
	OfNode() bool
}

// ByCapacity is a Filter that looks at nothing but the columns of capacities, if ByCapacity says so.
type ByCapacity interface {
	Filter
	ByCapacity() bool
}

// LocalScore is a score plugin whose raw score follows from the pod's template and the node.
type LocalScore interface {
	fwk.ScorePlugin
	// LocalScore returns the score for pods like this one; nil if it is the same on all nodes.
	LocalScore(t *Table, pod fwk.PodInfo) Score
}

// Score is a compiled score.
type Score interface {
	// Rate sets the raw scores of the given slots, which have nodes.
	Rate(slots []int32, raw []int64)
	OfNode() bool
	// Scale says how raw scores become scores.
	Scale() Scale
}

// Versioned is a Score that depends on something besides the node: with another version, all nodes are rated anew.
type Versioned interface {
	Score
	Version() uint64
}

// Scale is how raw scores become scores of 0 to fwk.MaxScore.
type Scale int

// The scales: raw scores are scores already; the highest of the feasible nodes becomes MaxScore; the highest becomes 0.
const (
	AsIs Scale = iota
	ToHighest
	ToHighestReversed
)

// Relational is a plugin whose answer about a node follows from the pods on many nodes. It counts them once and then follows the
// changes.
type Relational interface {
	fwk.Plugin
	// RelationKey appends to key what of the pod matters to the plugin; ok is false when the plugin has nothing to do for the pod.
	RelationKey(t *Table, key []byte, pod fwk.PodInfo) (out []byte, ok bool, err error)
	Relate(t *Table, pod fwk.PodInfo) (Relation, error)
}

// Relation is the counts for pods with one RelationKey.
type Relation interface {
	// Sync counts the given slots anew, free ones included.
	Sync(slots []int32)
	// Refuse sets the refusal of each given slot that has none.
	Refuse(slots []int32, refused []*fwk.Status)
	// Score adds the weighted scores of the feasible slots.
	Score(feasible []int32, weight int64, total []int64)
}

// Template appends to key everything of a pod that the local filters and scores look at: two pods with the same template fit onto
// the same nodes, as far as no other pods are concerned.
func Template(key []byte, info fwk.PodInfo) []byte {
	pod, res := info.GetPod(), info.CalculateResource()
	k := Key{b: key}
	for _, n := range []int64{
		res.Resource.GetMilliCPU(), res.Resource.GetMemory(), res.Resource.GetEphemeralStorage(), res.Non0CPU, res.Non0Mem,
	} {
		k.Int(n)
	}
	for _, name := range sortedKeys(res.Resource.GetScalarResources()) {
		k.String(string(name))
		k.Int(res.Resource.GetScalarResources()[name])
	}
	k.String(pod.Spec.NodeName)
	k.Placement(pod)
	containers := func(list []corev1.Container) {
		for i := range list {
			c := &list[i]
			k.String(c.Image)
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					k.Int(int64(port.HostPort))
					k.String(port.HostIP)
					k.String(string(port.Protocol))
				}
			}
			if c.RestartPolicy != nil {
				k.String(string(*c.RestartPolicy))
			}
			k.Int(-1)
		}
		k.Int(-2)
	}
	containers(pod.Spec.InitContainers)
	containers(pod.Spec.Containers)
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			k.String(v.Reference)
		}
	}
	return k.b
}

// NodeFilter is a Filter that looks at the Node alone; it returns the refusal of one slot.
type NodeFilter func(slot int32) *fwk.Status

// Refuse implements Filter.
func (f NodeFilter) Refuse(slots []int32, refused []*fwk.Status) {
	for _, slot := range slots {
		if refused[slot] == nil {
			refused[slot] = f(slot)
		}
	}
}

// OfNode implements Filter.
func (NodeFilter) OfNode() bool { return true }

// NodeScore is a Score that looks at the Node alone and is scaled to the highest.
type NodeScore struct {
	Of       func(slot int32) int64
	Reversed bool
}

// Rate implements Score.
func (s NodeScore) Rate(slots []int32, raw []int64) {
	for _, slot := range slots {
		raw[slot] = s.Of(slot)
	}
}

// OfNode implements Score.
func (NodeScore) OfNode() bool { return true }

// Scale implements Score.
func (s NodeScore) Scale() Scale {
	if s.Reversed {
		return ToHighestReversed
	}
	return ToHighest
}
