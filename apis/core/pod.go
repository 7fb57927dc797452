package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// pod is a group of containers on one node. Its subresources binding, ephemeralcontainers, resize and eviction use the exported
// functions of this package.
var pod = resource.Definition[*corev1.Pod]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Pod", Plural: "pods", ShortNames: []string{"po"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, ReturnDeleted: true, AllowUnconditionalUpdate: true,
	Default: DefaultPod,
	Prepare: preparePod, PrepareStatus: preparePodStatus,
	Validate: ValidatePod, ValidateUpdate: ValidatePodUpdate, ValidateStatus: ValidatePodStatusUpdate,
	Warn: warnPod, WarnStatus: warnPodStatus,
	WarnUnprepared: func(p *corev1.Pod) []string {
		if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
			return nil
		}
		return warnAppArmor(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	},
	Columns: podColumns(), RowConditions: podRowConditions,
	StatusFixes: []string{"deletionTimestamp", "ownerReferences"},
	Fields: map[string]func(*corev1.Pod) string{
		"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
		"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
		"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
		"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
		"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
		"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
		"status.podIP":             firstPodIP,
		"status.podIPs":            firstPodIP,
		"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
	},
	Index: "spec.nodeName",
	Grace: podGrace,
}

func firstPodIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) > 0 {
		return p.Status.PodIPs[0].IP
	}
	return p.Status.PodIP
}

// podGrace gives a running pod the time that the client or the pod itself names; a pod that no kubelet works on goes at once.
func podGrace(p *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var period int64
	switch {
	case p.Spec.NodeName == "" || IsPodFinished(p):
		period = 0
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

// IsPodFinished tells whether none of the pod's containers will ever run again.
func IsPodFinished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// preparePod resets what only the system writes. On update little is left to do: status and generation are the strategy's.
func preparePod(p, old *corev1.Pod) {
	dropAlphaFields(&p.Spec)
	if old != nil {
		if p.Spec.Resources == nil { // clients that do not know the field must not drop it
			p.Spec.Resources = old.Spec.Resources
		}
		return
	}
	completePodLevelResources(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: ComputePodQOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated, LastTransitionTime: metav1.Now(),
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeMatchLabelKeys(p)
	appArmorFromAnnotations(p)
}

// preparePodStatus keeps what older clients leave out, and drops what no client may write.
func preparePodStatus(p, old *corev1.Pod) {
	keepUnknownStatus(&p.Status, &old.Status)
	dropAlphaStatus(&p.Status)
}

// keepUnknownStatus keeps what an older client, which does not know the fields, leaves out. An empty list does clear.
func keepUnknownStatus(status, old *corev1.PodStatus) {
	if status.QOSClass == "" {
		status.QOSClass = old.QOSClass
	}
	if status.ResourceClaimStatuses == nil {
		status.ResourceClaimStatuses = old.ResourceClaimStatuses
	}
	if status.ExtendedResourceClaimStatus == nil {
		status.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus
	}
	if status.ObservedGeneration == 0 {
		status.ObservedGeneration = old.ObservedGeneration
	}
	seen := map[corev1.PodConditionType]int{} // a type may come several times: the nth is held beside the nth
	for i := range status.Conditions {
		condition, n := &status.Conditions[i], 0
		for j := range old.Conditions {
			if old.Conditions[j].Type != condition.Type {
				continue
			}
			if n == seen[condition.Type] && condition.ObservedGeneration == 0 {
				condition.ObservedGeneration = old.Conditions[j].ObservedGeneration
			}
			n++
		}
		seen[condition.Type]++
	}
}

// mirrorIP keeps the older single-address field and the list in step. The older one wins: clients that know the list fill both.
func mirrorIP(status *corev1.PodStatus) {
	switch {
	case status.PodIP == "" && len(status.PodIPs) > 0:
		status.PodIP = status.PodIPs[0].IP
	case status.PodIP != "" && (len(status.PodIPs) == 0 || status.PodIPs[0].IP != status.PodIP):
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	}
}

// mergeMatchLabelKeys turns matchLabelKeys and mismatchLabelKeys into selector requirements with the pod's own label values, so
// that the scheduler has one selector to look at.
func mergeMatchLabelKeys(p *corev1.Pod) {
	for i := range p.Spec.TopologySpreadConstraints {
		constraint := &p.Spec.TopologySpreadConstraints[i]
		constraint.LabelSelector = withOwnLabels(constraint.LabelSelector, p.Labels, constraint.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	for _, term := range podAffinityTerms(p.Spec.Affinity) {
		term.LabelSelector = withOwnLabels(term.LabelSelector, p.Labels, term.MatchLabelKeys, metav1.LabelSelectorOpIn)
		term.LabelSelector = withOwnLabels(term.LabelSelector, p.Labels, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
}

func withOwnLabels(selector *metav1.LabelSelector, own map[string]string, keys []string, operator metav1.LabelSelectorOperator) *metav1.LabelSelector {
	if selector == nil {
		return nil
	}
	for _, key := range keys {
		if value, ok := own[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
		}
	}
	return selector
}

// podAffinityTerms lists every term of pod affinity and anti-affinity, to be read or changed.
func podAffinityTerms(affinity *corev1.Affinity) []*corev1.PodAffinityTerm {
	if affinity == nil {
		return nil
	}
	var terms []*corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if a := affinity.PodAffinity; a != nil {
		add(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		add(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms
}
