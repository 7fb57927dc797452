package server

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podsecurity "k8s.io/pod-security-admission/admission"
	"k8s.io/utils/ptr"
)

// forbidPrivileged is what --allow-privileged=false means: no container of a pod or of a template may be privileged.
func forbidPrivileged(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	path, ok := podSpecPath(obj)
	if !ok {
		return nil
	}
	_, spec, err := podsecurity.DefaultPodSpecExtractor{}.ExtractPodSpec(obj)
	if err != nil || spec == nil {
		return nil
	}
	var errs field.ErrorList
	check := func(list string, i int, sc *corev1.SecurityContext) {
		if sc != nil && ptr.Deref(sc.Privileged, false) {
			errs = append(errs, field.Forbidden(path.Child(list).Index(i).Child("securityContext", "privileged"), "disallowed by cluster policy"))
		}
	}
	for i := range spec.Containers {
		check("containers", i, spec.Containers[i].SecurityContext)
	}
	for i := range spec.InitContainers {
		check("initContainers", i, spec.InitContainers[i].SecurityContext)
	}
	for i := range spec.EphemeralContainers {
		check("ephemeralContainers", i, spec.EphemeralContainers[i].SecurityContext)
	}
	return errs
}

// podSpecPath is where a kind holds the description of pods; false for kinds that hold none.
func podSpecPath(obj runtime.Object) (*field.Path, bool) {
	switch obj.(type) {
	case *corev1.Pod:
		return field.NewPath("spec"), true
	case *corev1.PodTemplate:
		return field.NewPath("template", "spec"), true
	case *batchv1.CronJob:
		return field.NewPath("spec", "jobTemplate", "spec", "template", "spec"), true
	case *corev1.ReplicationController, *appsv1.ReplicaSet, *appsv1.Deployment, *appsv1.DaemonSet, *appsv1.StatefulSet, *batchv1.Job:
		return field.NewPath("spec", "template", "spec"), true
	}
	return nil, false
}
