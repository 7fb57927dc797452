package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WarnNodeLabel tells what to use instead of a deprecated label of nodes that is named at path; nil for any other.
func WarnNodeLabel(key string, path *field.Path) []string {
	if message, deprecated := deprecatedNodeLabels[key]; deprecated {
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
