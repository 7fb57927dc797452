// Package podtopologyspread spreads similar pods over failure domains: hard constraints refuse nodes, soft ones score them. A pod
// without constraints gets soft defaults over hosts and zones.
package podtopologyspread

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/hint"
)

// Name is the plugin's name.
const Name = "PodTopologySpread"

// Plugin is the plugin.
type Plugin struct {
	handle   fwk.Handle
	services corelisters.ServiceLister
	defaults []corev1.TopologySpreadConstraint
	// system says that the defaults are the built-in ones, which nodes without zone labels take part in.
	system bool
}

// systemDefaults are upstream's.
func systemDefaults() []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
		{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
	}
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p := &Plugin{handle: h, defaults: systemDefaults(), system: true}
	if a, ok := args.(*configv1.PodTopologySpreadArgs); ok && a.DefaultingType == configv1.ListDefaulting {
		p.defaults, p.system = a.DefaultConstraints, false
	}
	if len(p.defaults) > 0 {
		p.services = h.SharedInformerFactory().Core().V1().Services().Lister()
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// constraint is a parsed TopologySpreadConstraint.
type constraint struct {
	key        string
	maxSkew    int
	minDomains int
	selector   labels.Selector
	// owner, if set, is what the pods to count are controlled by, instead of the selector.
	owner         types.UID
	honorAffinity bool
	honorTaints   bool
}

func (c constraint) counts(pod, like *corev1.Pod) bool {
	if pod.Namespace != like.Namespace || pod.DeletionTimestamp != nil {
		return false
	}
	return c.matches(pod)
}

func (c constraint) matches(pod *corev1.Pod) bool {
	if c.owner != "" {
		owner := metav1.GetControllerOf(pod)
		return owner != nil && owner.UID == c.owner
	}
	return c.selector.Matches(labels.Set(pod.Labels))
}

// constraints returns the pod's constraints of one kind, its own or the defaults.
func (p *Plugin) constraints(pod *corev1.Pod, kind corev1.UnsatisfiableConstraintAction) (list []constraint, defaulted bool, err error) {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		list, err = parse(pod, pod.Spec.TopologySpreadConstraints, kind)
		return list, false, err
	}
	list, err = parse(pod, p.defaults, kind)
	if err != nil || len(list) == 0 {
		return nil, true, err
	}
	selector, owner, err := p.defaultSelector(pod)
	if err != nil || (owner == "" && selector.Empty()) {
		return nil, true, err // nothing says which pods are alike
	}
	for i := range list {
		list[i].selector, list[i].owner = selector, owner
	}
	return list, true, nil
}

func parse(pod *corev1.Pod, from []corev1.TopologySpreadConstraint, kind corev1.UnsatisfiableConstraintAction) ([]constraint, error) {
	var out []constraint
	for _, c := range from {
		if c.WhenUnsatisfiable != kind {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("parse topology spread constraint: %w", err)
		}
		for _, key := range c.MatchLabelKeys {
			value, ok := pod.Labels[key]
			if !ok {
				continue
			}
			r, err := labels.NewRequirement(key, "=", []string{value})
			if err != nil {
				return nil, fmt.Errorf("parse topology spread constraint: %w", err)
			}
			selector = selector.Add(*r)
		}
		parsed := constraint{
			key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, selector: selector,
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			parsed.minDomains = int(*c.MinDomains)
		}
		out = append(out, parsed)
	}
	return out, nil
}

// defaultSelector says which pods are like this one: those of the same controller, else those that the same Services select.
func (p *Plugin) defaultSelector(pod *corev1.Pod) (labels.Selector, types.UID, error) {
	if owner := metav1.GetControllerOf(pod); owner != nil {
		switch owner.Kind {
		case "ReplicaSet", "ReplicationController", "StatefulSet":
			return labels.Nothing(), owner.UID, nil
		}
	}
	services, err := p.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, "", fmt.Errorf("list services: %w", err)
	}
	set := labels.Set{}
	for _, s := range services {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			set = labels.Merge(set, s.Spec.Selector)
		}
	}
	return labels.SelectorFromSet(set), "", nil
}

// includes says whether a node counts for a constraint.
func (c constraint) includes(pod *corev1.Pod, node *corev1.Node, affinity nodeaffinity.RequiredNodeAffinity) bool {
	if c.honorAffinity {
		if ok, err := affinity.Match(node); !ok || err != nil {
			return false
		}
	}
	if !c.honorTaints {
		return true
	}
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, true)
	return !untolerated
}

func hasKeys(node *corev1.Node, list []constraint) bool {
	return !slices.ContainsFunc(list, func(c constraint) bool {
		_, ok := node.Labels[c.key]
		return !ok
	})
}

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	// A pod that comes, goes or changes its labels matters if one of the constraints counts it.
	counted := func(pod, other *corev1.Pod) bool {
		list, _, err := p.constraints(pod, corev1.DoNotSchedule)
		return err != nil || slices.ContainsFunc(list, func(c constraint) bool { return c.counts(other, pod) })
	}
	anyOf := func(pod, old, new *corev1.Pod) bool {
		return (old != nil && counted(pod, old)) || (new != nil && counted(pod, new))
	}
	return []fwk.ClusterEventWithHint{
		hint.On(fwk.AssignedPod, fwk.Add|fwk.Delete|fwk.UpdatePodLabel, anyOf),
		hint.Always(fwk.TargetPod, fwk.UpdatePodLabel|fwk.UpdatePodToleration),
		hint.On(fwk.Node, fwk.Add|fwk.Delete|fwk.UpdateNodeLabel|fwk.UpdateNodeTaint, func(pod *corev1.Pod, old, new *corev1.Node) bool {
			list, _, err := p.constraints(pod, corev1.DoNotSchedule)
			if err != nil {
				return true
			}
			was, is := old != nil && hasKeys(old, list), new != nil && hasKeys(new, list)
			if !was || !is {
				return was != is
			}
			return !equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) ||
				slices.ContainsFunc(list, func(c constraint) bool { return old.Labels[c.key] != new.Labels[c.key] })
		}),
	}, nil
}
