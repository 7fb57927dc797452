package nodelifecycle

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reported are the conditions that only the kubelet knows about.
var reported = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

func conditionOf(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// readyStatus returns the status of the condition Ready; a node that never said counts as unknown.
func readyStatus(node *corev1.Node) corev1.ConditionStatus {
	if c := conditionOf(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

// unknown returns the conditions of a silent node, and whether they differ from what stands there.
func unknown(node *corev1.Node, now metav1.Time) ([]corev1.NodeCondition, bool) {
	conditions := slices.Clone(node.Status.Conditions)
	changed := false
	for _, kind := range reported {
		i := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		switch {
		case i < 0:
			conditions = append(conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			changed = true
		case conditions[i].Status != corev1.ConditionUnknown:
			conditions[i].Status = corev1.ConditionUnknown
			conditions[i].Reason = "NodeStatusUnknown"
			conditions[i].Message = "Kubelet stopped posting node status."
			conditions[i].LastTransitionTime = now
			changed = true
		}
	}
	return conditions, changed
}

// conditionTaints says which taint a condition means, by its status.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
}

// wantedTaints returns the node's taints with ours brought up to date: with those that make pods leave a node that is not
// ready if they are to go, or were to go before and are not spared.
func wantedTaints(node *corev1.Node, leaves leaving, now metav1.Time) []corev1.Taint {
	wanted := map[corev1.Taint]bool{}
	for _, ct := range conditionTaints {
		c := conditionOf(node, ct.condition)
		if c != nil && c.Status == ct.status {
			wanted[corev1.Taint{Key: ct.key, Effect: corev1.TaintEffectNoSchedule}] = true
		}
	}
	if node.Spec.Unschedulable {
		wanted[corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	leave := corev1.Taint{Effect: corev1.TaintEffectNoExecute}
	switch readyStatus(node) {
	case corev1.ConditionFalse:
		leave.Key = corev1.TaintNodeNotReady
	case corev1.ConditionUnknown:
		if conditionOf(node, corev1.NodeReady) != nil {
			leave.Key = corev1.TaintNodeUnreachable
		}
	default: // ready
	}
	before := hasTaint(node, corev1.TaintNodeNotReady, leave.Effect) || hasTaint(node, corev1.TaintNodeUnreachable, leave.Effect)
	if leave.Key != "" && (leaves == evict || leaves == asBefore && before) {
		wanted[leave] = true
	}
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		id := corev1.Taint{Key: taint.Key, Effect: taint.Effect}
		if !ours(id) || wanted[id] {
			taints = append(taints, taint)
			delete(wanted, id)
		}
	}
	var added []corev1.Taint
	for taint := range wanted {
		taint.TimeAdded = &now
		added = append(added, taint)
	}
	slices.SortFunc(added, func(a, b corev1.Taint) int {
		return slices.Compare([]string{a.Key, string(a.Effect)}, []string{b.Key, string(b.Effect)})
	})
	return append(taints, added...)
}

func ours(id corev1.Taint) bool {
	if id.Effect == corev1.TaintEffectNoExecute {
		return id.Key == corev1.TaintNodeNotReady || id.Key == corev1.TaintNodeUnreachable
	}
	return id.Effect == corev1.TaintEffectNoSchedule && (id.Key == corev1.TaintNodeUnschedulable ||
		slices.ContainsFunc(conditionTaints, func(ct struct {
			condition corev1.NodeConditionType
			status    corev1.ConditionStatus
			key       string
		},
		) bool {
			return ct.key == id.Key
		}))
}

func hasTaint(node *corev1.Node, key string, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}
