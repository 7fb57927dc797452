package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// formerNodeLabels have had successors for long.
var formerNodeLabels = map[string]struct{ since, successor string }{
	"beta.kubernetes.io/arch":           {"v1.14", corev1.LabelArchStable},
	"beta.kubernetes.io/os":             {"v1.14", corev1.LabelOSStable},
	corev1.LabelFailureDomainBetaRegion: {"v1.17", corev1.LabelTopologyRegion},
	corev1.LabelFailureDomainBetaZone:   {"v1.17", corev1.LabelTopologyZone},
	corev1.LabelInstanceType:            {"v1.17", corev1.LabelInstanceTypeStable},
}

func deprecatedNodeLabel(key string) (message string, deprecated bool) {
	former, deprecated := formerNodeLabels[key]
	return fmt.Sprintf("deprecated since %s; use %q instead", former.since, former.successor), deprecated
}

// WarnNodeLabel tells what to use instead of a deprecated label of nodes that is named at path; nil for any other.
func WarnNodeLabel(key string, path *field.Path) []string {
	if message, deprecated := deprecatedNodeLabel(key); deprecated {
		return []string{fmt.Sprintf("%s: %s", path, message)}
	}
	return nil
}

func warnNodeSelector(selector *corev1.NodeSelector, path *field.Path) []string {
	if selector == nil {
		return nil
	}
	var warnings []string
	for i, term := range selector.NodeSelectorTerms {
		for j, expression := range term.MatchExpressions {
			warnings = append(warnings, WarnNodeLabel(expression.Key,
				path.Child("nodeSelectorTerms").Index(i).Child("matchExpressions").Index(j).Child("key"))...)
		}
	}
	return warnings
}
