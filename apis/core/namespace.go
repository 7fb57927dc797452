package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// namespace is a scope for names. It stays while spec.finalizers names somebody who still cleans up; only the finalize
// subresource of apiserver/registry changes them.
var namespace = resource.Definition[*corev1.Namespace]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Namespace", Plural: "namespaces", ShortNames: []string{"ns"},
	HasStatus: true, GenerationOf: resource.NoGeneration[*corev1.Namespace],
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	ValidateName: apivalidation.NameIsDNSLabel,
	Default:      defaultNamespace,
	Prepare:      prepareNamespace,
	Validate:     validateNamespace,
	ValidateUpdate: func(*corev1.Namespace, *corev1.Namespace) field.ErrorList {
		return nil // old finalizers may be invalid, and Prepare has kept them
	},
	ValidateStatus: validateNamespaceStatus,
	Fields: map[string]func(*corev1.Namespace) string{
		"status.phase": func(ns *corev1.Namespace) string { return string(ns.Status.Phase) },
		"name":         func(ns *corev1.Namespace) string { return ns.Name },
	},
	Columns: resource.Columns(resource.Column[*corev1.Namespace]{
		Name: "Status", Description: "The status of the namespace",
		Get: func(ns *corev1.Namespace) any { return string(ns.Status.Phase) },
	}),
}

func defaultNamespace(ns *corev1.Namespace) {
	resource.SetDefault(&ns.Status.Phase, corev1.NamespaceActive)
	if ns.Name != "" { // with generateName it is set once the name is known
		labelNamespace(ns)
	}
}

// labelNamespace lets selectors name namespaces.
func labelNamespace(ns *corev1.Namespace) {
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespace(ns, old *corev1.Namespace) {
	labelNamespace(ns)
	if old != nil {
		ns.Spec.Finalizers = old.Spec.Finalizers
		return
	}
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, finalizer := range ns.Spec.Finalizers {
		errs = append(errs, validateNamespaceFinalizer(string(finalizer), field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

// ValidateNamespaceFinalize checks an update through the finalize subresource.
func ValidateNamespaceFinalize(ns, _ *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, finalizer := range ns.Spec.Finalizers {
		errs = append(errs, validateNamespaceFinalizer(string(finalizer), field.NewPath("spec", "finalizers").Index(i))...)
	}
	return errs
}

func validateNamespaceFinalizer(finalizer string, path *field.Path) field.ErrorList {
	return append(validate.QualifiedName(finalizer, path), validate.FinalizerName(finalizer, path)...)
}

func validateNamespaceStatus(ns, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch {
	case ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
