package defaultpreemption

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// heedExtenders lets the extenders that know about preemption drop candidates and change their victims.
func (p *Plugin) heedExtenders(pod *corev1.Pod, candidates []candidate) ([]candidate, error) {
	for _, e := range p.handle.Extenders() {
		if len(candidates) == 0 || !e.SupportsPreemption() || !e.IsInterested(pod) {
			continue
		}
		victims := map[string]*extenderv1.Victims{}
		for _, c := range candidates {
			victims[c.node] = &extenderv1.Victims{Pods: c.victims, NumPDBViolations: int64(c.violations)}
		}
		kept, err := e.ProcessPreemption(pod, victims, p.handle.SnapshotSharedLister().NodeInfos())
		if err != nil {
			if e.IsIgnorable() {
				continue
			}
			return nil, fmt.Errorf("extender %s: %w", e.Name(), err)
		}
		var left []candidate
		for _, c := range candidates {
			v, ok := kept[c.node]
			if ok && (v == nil || len(v.Pods) == 0) && !e.IsIgnorable() {
				return nil, fmt.Errorf("extender %s: expected at least one victim pod on node %q", e.Name(), c.node)
			}
			if v != nil && len(v.Pods) > 0 {
				left = append(left, candidate{node: c.node, victims: v.Pods, violations: int(v.NumPDBViolations)})
			}
		}
		candidates = left
	}
	return candidates, nil
}
