package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func warnPod(p, old *corev1.Pod) []string { return nil }

// PodTemplateWarnings tells what is legal in a template but surely not meant.
func PodTemplateWarnings(template, old *corev1.PodTemplateSpec, path *field.Path) []string {
	return nil
}
