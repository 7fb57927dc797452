package queue

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// Happened tells the queue of a change in the cluster. Pods that a registered plugin refused are tried again if the plugin's hint
// says that this change may help.
func (q *Queue) Happened(ctx context.Context, ce fwk.ClusterEvent, oldObj, newObj any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ev := event{ClusterEvent: ce, old: oldObj, new: newObj}
	if len(q.inFlight) > 0 {
		q.record(ev)
	}
	if ce.Resource == fwk.WildCard {
		for _, p := range q.unschedulable {
			q.react(ctx, p, ev)
		}
		return
	}
	for plugin := range q.interested(ce) {
		for _, p := range q.rejectedBy[plugin] {
			q.react(ctx, p, ev)
		}
	}
}

// interested returns the plugins that have registered for an event.
func (q *Queue) interested(ce fwk.ClusterEvent) sets.Set[string] {
	out := sets.New[string]()
	for _, hints := range q.cfg.Hints {
		for _, hint := range hints {
			if matches(hint.Event, ce) {
				out.Insert(hint.Plugin)
			}
		}
	}
	if ce.Resource == fwk.Node && ce.ActionType&fwk.Add != 0 {
		out.Insert(NoNodes)
	}
	return out
}

// maxEvents bounds what is kept for pods in flight: a pod may wait minutes for a volume while others start by the thousand.
const maxEvents = 10000

// record keeps an event for the pods in flight. When there are too many, one that stands for anything replaces them: the pods in
// flight are then tried again if they come back refused, which is safe.
func (q *Queue) record(ev event) {
	if len(q.events) >= maxEvents {
		q.eventBase += len(q.events)
		q.events = []event{{ClusterEvent: fwk.ClusterEvent{Resource: fwk.WildCard, ActionType: fwk.All, CustomLabel: "Overflow"}}}
		for _, f := range q.inFlight {
			f.since = q.eventBase
		}
	}
	q.events = append(q.events, ev)
}

type verdict int

const (
	skip verdict = iota
	afterBackoff
	immediately
)

// react moves an unschedulable pod if the event may help it, and says whether it did.
func (q *Queue) react(ctx context.Context, p *Pod, ev event) bool {
	v := q.judge(ctx, p, ev)
	if v == skip {
		return false
	}
	q.enqueue(ctx, p, v == afterBackoff)
	at := q.where[p.GetPod().UID]
	return at.in != nil // it may have been gated again
}

func (q *Queue) judge(ctx context.Context, p *Pod, ev event) verdict {
	if ev.Resource == fwk.WildCard {
		return afterBackoff
	}
	result := skip
	for _, hint := range q.cfg.Hints[p.GetPod().Spec.SchedulerName] {
		pending := p.Pending.Has(hint.Plugin)
		relevant := pending || p.Rejectors.Has(hint.Plugin)
		if p.GatedBy != "" {
			relevant = p.GatedBy == hint.Plugin
		}
		if !relevant || !matches(hint.Event, ev.ClusterEvent) || !helps(ctx, hint, p, ev) {
			continue
		}
		if pending {
			return immediately
		}
		result = afterBackoff
	}
	if ev.Resource == fwk.Node && ev.ActionType&fwk.Add != 0 && p.Rejectors.Has(NoNodes) {
		return immediately
	}
	return result
}

// helps calls the plugin's hint. An error counts as yes: better one useless try than a pod that is forgotten.
func helps(ctx context.Context, hint Hint, p *Pod, ev event) bool {
	if hint.Fn == nil {
		return true
	}
	logger := klog.FromContext(ctx)
	answer, err := hint.Fn(logger, p.GetPod(), ev.old, ev.new)
	if err != nil {
		logger.Error(err, "Queueing hint", "plugin", hint.Plugin, "event", ev.Label(), "pod", klog.KObj(p.GetPod()))
		return true
	}
	return answer == fwk.Queue
}

// matches says whether a registered event covers one that happened. Pod covers the three kinds of pod events.
func matches(registered, happened fwk.ClusterEvent) bool {
	if registered.ActionType&happened.ActionType == 0 {
		return false
	}
	if registered.Resource == fwk.WildCard || registered.Resource == happened.Resource {
		return true
	}
	switch happened.Resource {
	case fwk.AssignedPod, fwk.UnscheduledPod, fwk.TargetPod:
		return registered.Resource == fwk.Pod
	default:
		return false
	}
}

// PodChanges names the changes of an unscheduled pod that may make it schedulable.
func PodChanges(old, new *corev1.Pod) []fwk.ClusterEvent {
	return podChanges(fwk.TargetPod, old, new)
}

// AssignedPodChanges names the changes of a running pod that may make others schedulable.
func AssignedPodChanges(old, new *corev1.Pod) []fwk.ClusterEvent {
	return podChanges(fwk.AssignedPod, old, new)
}

func podChanges(resource fwk.EventResource, old, new *corev1.Pod) []fwk.ClusterEvent {
	var out []fwk.ClusterEvent
	add := func(changed bool, action fwk.ActionType) {
		if changed {
			out = append(out, fwk.ClusterEvent{Resource: resource, ActionType: action})
		}
	}
	add(!maps.Equal(old.Labels, new.Labels), fwk.UpdatePodLabel)
	add(!equality.Semantic.DeepEqual(old.Spec.Tolerations, new.Spec.Tolerations), fwk.UpdatePodToleration)
	add(len(old.Spec.SchedulingGates) > 0 && len(new.Spec.SchedulingGates) == 0, fwk.UpdatePodSchedulingGatesEliminated)
	add(!equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses),
		fwk.UpdatePodGeneratedResourceClaim)
	if !sameResources(old, new) {
		before, after := nodeinfo.PodRequests(old), nodeinfo.PodRequests(new)
		up, down := false, false
		for name, quantity := range after {
			cmp := quantity.Cmp(before[name])
			up, down = up || cmp > 0, down || cmp < 0
		}
		for name := range before {
			_, ok := after[name]
			down = down || !ok
		}
		add(up, fwk.UpdatePodScaleUp)
		add(down, fwk.UpdatePodScaleDown)
	}
	return out
}

// sameResources is a cheap test for the usual case: only the status of the pod moved on, and says nothing of a resize.
func sameResources(old, new *corev1.Pod) bool {
	if old.Generation == new.Generation && old.Generation != 0 && !nodeinfo.StatusHasResources(old) && !nodeinfo.StatusHasResources(new) {
		return true
	}
	if !equality.Semantic.DeepEqual(old.Spec.Resources, new.Spec.Resources) || len(old.Spec.Containers) != len(new.Spec.Containers) {
		return false
	}
	for i := range new.Spec.Containers {
		if !equality.Semantic.DeepEqual(old.Spec.Containers[i].Resources, new.Spec.Containers[i].Resources) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(allocated(old), allocated(new))
}

func allocated(pod *corev1.Pod) map[string]corev1.ResourceList {
	out := map[string]corev1.ResourceList{}
	for _, s := range pod.Status.ContainerStatuses {
		if s.AllocatedResources != nil {
			out[s.Name] = s.AllocatedResources
		}
		if s.Resources != nil {
			out[s.Name+"/actual"] = s.Resources.Requests
		}
	}
	return out
}

// NodeChanges names the changes of a node that may make pods schedulable.
func NodeChanges(old, new *corev1.Node) []fwk.ClusterEvent {
	var out []fwk.ClusterEvent
	add := func(changed bool, action fwk.ActionType) {
		if changed {
			out = append(out, fwk.ClusterEvent{Resource: fwk.Node, ActionType: action})
		}
	}
	add(!equality.Semantic.DeepEqual(old.Status.Allocatable, new.Status.Allocatable), fwk.UpdateNodeAllocatable)
	add(!maps.Equal(old.Labels, new.Labels), fwk.UpdateNodeLabel)
	add(old.Spec.Unschedulable != new.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints), fwk.UpdateNodeTaint)
	add(!maps.Equal(conditions(old), conditions(new)), fwk.UpdateNodeCondition)
	add(!maps.Equal(old.Annotations, new.Annotations), fwk.UpdateNodeAnnotation)
	add(!slices.Equal(old.Status.DeclaredFeatures, new.Status.DeclaredFeatures), fwk.UpdateNodeDeclaredFeature)
	return out
}

func conditions(node *corev1.Node) map[corev1.NodeConditionType]corev1.ConditionStatus {
	out := make(map[corev1.NodeConditionType]corev1.ConditionStatus, len(node.Status.Conditions))
	for _, c := range node.Status.Conditions {
		out[c.Type] = c.Status
	}
	return out
}

// InFlight says whether a pod is being tried or bound.
func (q *Queue) InFlight(uid types.UID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.inFlight[uid]
	return ok
}
