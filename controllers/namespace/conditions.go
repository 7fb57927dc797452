package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// report writes the five conditions that tell what holds a deletion up.
func (r *Reconciler) report(ctx context.Context, ns *corev1.Namespace, c *contents) error {
	conditions := merge(ns.Status.Conditions, conditionsOf(c), metav1.NewTime(r.Clock.Now()))
	if equality.Semantic.DeepEqual(ns.Status.Conditions, conditions) {
		return nil
	}
	changed := ns.DeepCopy()
	changed.Status.Conditions = conditions
	_, err := r.Clientset.CoreV1().Namespaces().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	return err
}

func conditionsOf(c *contents) []corev1.NamespaceCondition {
	pick := func(kind corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) corev1.NamespaceCondition {
		if bad {
			return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionTrue, Reason: badReason, Message: badMessage}
		}
		return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage}
	}
	failed := 0
	if partial, ok := errors.AsType[*discovery.ErrGroupDiscoveryFailed](c.discovery); ok {
		failed = len(partial.Groups)
	}
	return []corev1.NamespaceCondition{
		pick(corev1.NamespaceDeletionDiscoveryFailure, c.discovery != nil, "DiscoveryFailed",
			fmt.Sprintf("Discovery failed for some groups, %d failing: %v", failed, c.discovery),
			"ResourcesDiscovered", "All resources successfully discovered"),
		pick(corev1.NamespaceDeletionGVParsingFailure, c.parse != nil, "GroupVersionParsingFailed", fmt.Sprint(c.parse),
			"ParsedGroupVersions", "All legacy kube types successfully parsed"),
		pick(corev1.NamespaceDeletionContentFailure, len(c.failures) > 0, "ContentDeletionFailed",
			fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(c.failures), joined(c.failures)),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		pick(corev1.NamespaceContentRemaining, len(c.remaining) > 0, "SomeResourcesRemain",
			"Some resources are remaining: "+remaining(c), "ContentRemoved", "All content successfully removed"),
		pick(corev1.NamespaceFinalizersRemaining, len(c.finalizers) > 0, "SomeFinalizersRemain",
			"Some content in the namespace has finalizers remaining: "+finalizers(c),
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
}

func joined(errs []error) string {
	texts := make([]string, 0, len(errs))
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

func remaining(c *contents) string {
	var parts []string
	for kind, n := range c.remaining {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", kind.Resource, kind.Group, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func finalizers(c *contents) string {
	var parts []string
	for name, n := range c.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// merge replaces conditions of the same type and keeps the time of the last transition.
func merge(old, latest []corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	out := slices.Clone(old)
	for _, c := range latest {
		c.LastTransitionTime = now
		i := slices.IndexFunc(out, func(o corev1.NamespaceCondition) bool { return o.Type == c.Type })
		if i < 0 {
			out = append(out, c)
			continue
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	return out
}
