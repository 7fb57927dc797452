package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"keelson.dev/controllers/revision"
	"keelson.dev/internal/podstate"
)

// view is one look at a DaemonSet: which nodes want a pod, and which pods are for which node.
type view struct {
	set   *appsv1.DaemonSet
	hash  string // of the current template
	now   time.Time
	nodes []*corev1.Node
	wish  map[string]wish
	pods  map[string][]*corev1.Pod // by node, oldest and most settled first
}

// wish is what a DaemonSet wants of a node.
type wish struct {
	start bool // a pod should be there
	stay  bool // a pod that is there may stay
}

func newView(set *appsv1.DaemonSet, pods []*corev1.Pod, nodes []*corev1.Node, hash string, now time.Time) *view {
	v := &view{set: set, hash: hash, now: now, nodes: slices.Clone(nodes), wish: map[string]wish{}, pods: map[string][]*corev1.Pod{}}
	slices.SortFunc(v.nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	pattern := &corev1.Pod{Spec: podTemplate(set, hash).Spec}
	affinity := nodeaffinity.GetRequiredNodeAffinity(pattern)
	for _, node := range v.nodes {
		v.wish[node.Name] = wishFor(pattern, affinity, node)
	}
	for _, pod := range pods {
		if name := nodeOf(pod); name != "" {
			v.pods[name] = append(v.pods[name], pod)
		}
	}
	for _, list := range v.pods {
		slices.SortFunc(list, settledFirst)
	}
	return v
}

// settledFirst puts pods with a node first, then the oldest.
func settledFirst(a, b *corev1.Pod) int {
	if (a.Spec.NodeName == "") != (b.Spec.NodeName == "") {
		if a.Spec.NodeName != "" {
			return -1
		}
		return 1
	}
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func wishFor(pattern *corev1.Pod, affinity nodeaffinity.RequiredNodeAffinity, node *corev1.Node) wish {
	if pattern.Spec.NodeName != "" && pattern.Spec.NodeName != node.Name {
		return wish{}
	}
	if fits, err := affinity.Match(node); err != nil || !fits {
		return wish{}
	}
	repels := func(effects ...corev1.TaintEffect) bool {
		_, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pattern.Spec.Tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, true)
		return found
	}
	if repels(corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute) {
		return wish{stay: !repels(corev1.TaintEffectNoExecute)}
	}
	return wish{start: true, stay: true}
}

// tolerated are the taints under which daemons keep running.
var tolerated = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

// podTemplate is the DaemonSet's template with what the controller adds.
func podTemplate(set *appsv1.DaemonSet, hash string) *corev1.PodTemplateSpec {
	template := set.Spec.Template.DeepCopy()
	add := slices.Clone(tolerated)
	if template.Spec.HostNetwork {
		add = append(add, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, t := range add {
		if !slices.ContainsFunc(template.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) }) {
			template.Spec.Tolerations = append(template.Spec.Tolerations, t)
		}
	}
	meta := metav1.ObjectMeta{Labels: template.Labels}
	metav1.SetMetaDataLabel(&meta, revision.HashLabel, hash)
	if generation, ok := set.Annotations[appsv1.DeprecatedTemplateGeneration]; ok {
		metav1.SetMetaDataLabel(&meta, "pod-template-generation", generation)
	}
	template.Labels = meta.Labels
	return template
}

// pinTo makes the scheduler choose that node: every alternative of the required node affinity gets a field for the node's name.
func pinTo(affinity *corev1.Affinity, node string) *corev1.Affinity {
	here := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	only := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{here}}}}
	if affinity == nil {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: only}}
	}
	affinity = affinity.DeepCopy()
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// The other terms were checked against the node when it was chosen; only the name counts for the scheduler.
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = only
	return affinity
}

// nodeOf returns the node that a pod runs on or is pinned to.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil || pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// placement is what nodes need: pods to create on nodes, pods to remove, and what to tell about it.
type placement struct {
	create []string
	remove []*corev1.Pod
	notes  []note
}

type note struct{ kind, reason, message string }

// planPlacement gives each node that should have a pod one, and removes pods from where they should not be.
func planPlacement(v *view) placement {
	var p placement
	known := map[string]bool{}
	for _, node := range v.nodes {
		known[node.Name] = true
		pods, wish := v.pods[node.Name], v.wish[node.Name]
		switch {
		case wish.start && len(pods) == 0:
			p.create = append(p.create, node.Name)
		case wish.stay:
			p.keepOne(v, node.Name, pods)
		default:
			p.remove = append(p.remove, podstate.Select(pods, notDeleting)...)
		}
	}
	for name, pods := range v.pods {
		if known[name] {
			continue
		}
		for _, pod := range pods {
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod) // pinned to a node that is gone: it will never be scheduled
			}
		}
	}
	return p
}

func notDeleting(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil }

// keepOne removes finished pods of a node, and all but one of the others. While an update surges there may be one of each template,
// until the old one is not ready or the new one is available.
func (p *placement) keepOne(v *view, node string, pods []*corev1.Pod) {
	var running []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			p.notes = append(p.notes, note{corev1.EventTypeWarning, "FailedDaemonPod", fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node)})
			p.remove = append(p.remove, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			p.notes = append(p.notes, note{corev1.EventTypeNormal, "SucceededDaemonPod", fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node)})
			p.remove = append(p.remove, pod)
		default:
			running = append(running, pod)
		}
	}
	if len(running) <= 1 {
		return
	}
	if surge, _ := fenceposts(v); surge == 0 {
		p.remove = append(p.remove, running[1:]...)
		return
	}
	var oldest, newest *corev1.Pod
	for _, pod := range running {
		switch updated := pod.Labels[revision.HashLabel] == v.hash; {
		case updated && newest == nil:
			newest = pod
		case !updated && oldest == nil:
			oldest = pod
		default:
			p.remove = append(p.remove, pod)
		}
	}
	if oldest != nil && newest != nil && (!podstate.Ready(oldest) || podstate.Available(newest, v.set.Spec.MinReadySeconds, v.now)) {
		p.remove = append(p.remove, oldest)
	}
}
