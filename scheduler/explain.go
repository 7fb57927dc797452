package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/schedulinggates"
	"keelson.dev/scheduler/profile"
	"keelson.dev/scheduler/why"
)

// note remembers why a decision found no node, with the first nodes that refused. The snapshot must be that of the decision.
func (s *Scheduler) note(pod *corev1.Pod, f *failure) {
	decision := why.Decision{Time: time.Now(), Message: f.message}
	if f.diagnosis.PreFilterMessage == "" {
		all, _ := s.snapshot.List() // it never fails
		decision.Refusals = why.Refusals(all, f.diagnosis.Get)
	}
	s.why.Add(pod.UID, decision)
}

// explain says where a pod is, and why. For a pod that waits it asks every plugin about every node as they are now, and changes
// nothing. pod may be one that does not exist.
func (s *Scheduler) explain(ctx context.Context, pod *corev1.Pod) (*why.Answer, error) {
	a := &why.Answer{Namespace: pod.Namespace, Name: pod.Name, History: s.why.Of(pod.UID)}
	name := klog.KObj(pod).String()
	prof := s.profiles[pod.Spec.SchedulerName]
	switch {
	case pod.Spec.NodeName != "":
		a.State, a.Node = why.Bound, pod.Spec.NodeName
		a.Sentence = fmt.Sprintf("Pod %s has its node: %s.", name, a.Node)
		if _, err := s.informers.Core().V1().Nodes().Lister().Get(a.Node); apierrors.IsNotFound(err) {
			a.Sentence = fmt.Sprintf("Pod %s names node %s in its spec, and there is no such node: nobody will start it. Delete it, and let it name another node or none.", name, a.Node)
		}
		return a, nil
	case pod.DeletionTimestamp != nil:
		a.State, a.Sentence = why.Ending, fmt.Sprintf("Pod %s is being deleted and gets no node any more.", name)
		return a, nil
	case prof == nil:
		a.State = why.NotOurs
		a.Sentence = fmt.Sprintf("Pod %s waits for the scheduler %q; this one serves %s.", name, pod.Spec.SchedulerName, strings.Join(s.profileNames(), ", "))
		a.Reasons = []why.Reason{{Reason: "another scheduler's pod", Remedy: "start that scheduler, or change spec.schedulerName"}}
		return a, nil
	case len(pod.Spec.SchedulingGates) > 0:
		var gates []string
		for _, g := range pod.Spec.SchedulingGates {
			gates = append(gates, g.Name)
		}
		a.State = why.Gated
		a.Sentence = fmt.Sprintf("Pod %s is held back by its own scheduling gates until somebody removes them: %s.", name, strings.Join(gates, ", "))
		a.Reasons = []why.Reason{{Plugin: schedulinggates.Name, Reason: "waiting for scheduling gates", Remedy: "remove them from spec.schedulingGates"}}
		return a, nil
	}
	if err := s.tryOut(ctx, prof, pod, a); err != nil {
		return nil, err
	}
	if nominated := s.queue.Nominator.NodeOf(pod.UID); nominated != "" && a.State == why.Waiting {
		a.State, a.Node = why.Nominated, nominated
		a.Sentence = fmt.Sprintf("Pod %s waits for pods of lower priority on node %s to end, which make room for it.", name, nominated)
	}
	return a, nil
}

func (s *Scheduler) profileNames() []string {
	var out []string
	for name := range s.profiles {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// tryOut asks the plugins about every node, without an effect.
func (s *Scheduler) tryOut(ctx context.Context, prof *profile.Profile, pod *corev1.Pod, a *why.Answer) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	s.cache.UpdateSnapshot(s.snapshot)
	name, state, d := klog.KObj(pod).String(), profile.NewState(), profile.NewDiagnosis()
	all, _ := s.snapshot.List() // it never fails
	a.State = why.Waiting
	pre, status, limiters := prof.RunPreFilter(ctx, state, pod, all, sets.New[string]())
	if !status.IsSuccess() {
		if !status.IsRejected() {
			return status.AsError()
		}
		reason := why.Reason{Plugin: status.Plugin(), Reason: status.Message()}
		reason.Remedy = why.Remedy(reason, why.Facts{Pod: pod})
		a.Reasons = []why.Reason{reason}
		a.Sentence = why.Sentence(name, len(all), a.Reasons)
		return nil
	}
	var fitting []fwk.NodeInfo
	for _, n := range all {
		v := why.Verdict{Node: n.Node().Name}
		if !pre.AllNodes() && !pre.NodeNames.Has(v.Node) {
			v.Plugin, v.Reasons = limiters.UnsortedList()[0], []string{"node(s) didn't match Pod's node affinity/selector"}
		} else if status := prof.RunFilterPluginsWithNominatedPods(ctx, state, pod, n); status.IsError() {
			return status.AsError()
		} else if !status.IsSuccess() {
			v.Plugin, v.Reasons = status.Plugin(), status.Reasons()
		} else {
			fitting = append(fitting, n)
		}
		a.Nodes = append(a.Nodes, v)
	}
	found, err := s.askExtenders(pod, fitting, d)
	if err != nil {
		return err
	}
	for i := range a.Nodes {
		if status := d.NodeStatus[a.Nodes[i].Node]; status != nil {
			a.Nodes[i].Plugin, a.Nodes[i].Reasons = status.Plugin(), status.Reasons()
		}
	}
	if len(found) > 0 {
		return s.rank(ctx, prof, state, pod, found, a)
	}
	a.Reasons = why.Group(a.Nodes)
	facts := why.Facts{
		Pod: pod, Asks: func(r string) string { return amount(nodeinfo.PodRequests(pod), r) }, Free: func(r string) string { return mostFree(all, r) },
	}
	for i := range a.Reasons {
		a.Reasons[i].Remedy = why.Remedy(a.Reasons[i], facts)
	}
	a.Sentence = why.Sentence(name, len(all), a.Reasons)
	return nil
}

// rank scores the nodes that take the pod.
func (s *Scheduler) rank(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod, nodes []fwk.NodeInfo, a *why.Answer) error {
	if status := prof.RunPreScorePlugins(ctx, state, pod, nodes); !status.IsSuccess() {
		return status.AsError()
	}
	scores, status := prof.RunScorePlugins(ctx, state, pod, nodes)
	if !status.IsSuccess() {
		return status.AsError()
	}
	s.scoreExtenders(ctx, pod, nodes, scores)
	best := 0
	for i, score := range scores {
		if score.TotalScore > scores[best].TotalScore {
			best = i
		}
		at := slices.IndexFunc(a.Nodes, func(v why.Verdict) bool { return v.Node == score.Name })
		a.Nodes[at].Score, a.Nodes[at].Scores = score.TotalScore, map[string]int64{}
		for _, p := range score.Scores {
			a.Nodes[at].Scores[p.Name] = p.Score
		}
	}
	a.State, a.Node = why.Fitting, scores[best].Name
	a.Sentence = fmt.Sprintf("Pod %s fits on %d of %d nodes now, best on %s.", klog.KObj(pod), len(nodes), len(a.Nodes), a.Node)
	return nil
}

func amount(list corev1.ResourceList, name string) string {
	q := list[corev1.ResourceName(name)]
	return q.String()
}

// mostFree is the most of a resource that is free on one node.
func mostFree(nodes []fwk.NodeInfo, name string) string {
	of := func(r fwk.Resource) int64 {
		switch corev1.ResourceName(name) {
		case corev1.ResourceCPU:
			return r.GetMilliCPU()
		case corev1.ResourceMemory:
			return r.GetMemory()
		case corev1.ResourceEphemeralStorage:
			return r.GetEphemeralStorage()
		default:
			return r.GetScalarResources()[corev1.ResourceName(name)]
		}
	}
	most := int64(0)
	for _, n := range nodes {
		most = max(most, of(n.GetAllocatable())-of(n.GetRequested()))
	}
	switch corev1.ResourceName(name) {
	case corev1.ResourceCPU:
		return resource.NewMilliQuantity(most, resource.DecimalSI).String()
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return resource.NewQuantity(most, resource.BinarySI).String()
	default: // counted in units
		return resource.NewQuantity(most, resource.DecimalSI).String()
	}
}
