package core

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// isMirror tells whether the pod shows one that a kubelet runs from a file.
func isMirror(p *corev1.Pod) bool {
	_, mirror := p.Annotations[mirrorPodAnnotation]
	return mirror
}

// validatePodAnnotations checks the annotations that mean something for a pod.
func validatePodAnnotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if value, ok := annotations[mirrorPodAnnotation]; ok && spec.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(mirrorPodAnnotation), value, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if value, ok := annotations[podDeletionCost]; ok && !isDeletionCost(value) {
		errs = append(errs, field.Invalid(path.Key(podDeletionCost), value, "must be a 32bit integer"))
	}
	if value := annotations[tolerationsAnnotation]; value != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &tolerations); err != nil {
			errs = append(errs, field.Invalid(path, tolerationsAnnotation, err.Error()))
		}
		errs = append(errs, validate.Tolerations(tolerations, path.Child(tolerationsAnnotation))...)
	}
	names := sets.New(containerNames(spec)...)
	for _, key := range sortedKeys(annotations) {
		value := annotations[key]
		local, isLocal := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix) // the prefix is AppArmor's too
		if key == corev1.SeccompPodAnnotationKey || strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix) {
			switch {
			case isLocal:
				errs = append(errs, validate.DescendingPath(local, path.Child(key))...)
			case !slices.Contains(seccompNames, value):
				errs = append(errs, field.Invalid(path.Child(key), value, "must be a valid seccomp profile"))
			}
		}
		container, ok := strings.CutPrefix(key, appArmorAnnotationBase)
		if !ok {
			continue
		}
		if !names.Has(container) {
			errs = append(errs, field.Invalid(path.Key(key), container, "container not found"))
		}
		if value != "" && !isLocal && appArmorProfile(value) == nil {
			errs = append(errs, field.Invalid(path.Key(key), value, fmt.Sprintf("invalid AppArmor profile name: %q", value)))
		}
	}
	return errs
}

// tolerationsAnnotation did what spec.tolerations does, before 1.6.
const tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"

// seccompNames are the profiles that annotations named, but for those of the node.
var seccompNames = []string{corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined}

// validateSeccompAnnotations demands that the annotations, which do nothing any more, say the same as the fields.
func validateSeccompAnnotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(key string, profile *corev1.SeccompProfile, at *field.Path) {
		if value, ok := annotations[key]; ok && profile != nil {
			errs = append(errs, profileAgrees("seccomp", value, string(profile.Type), profile.LocalhostProfile, at.Child("securityContext", "seccompProfile"))...)
		}
	}
	if spec.SecurityContext != nil {
		check(corev1.SeccompPodAnnotationKey, spec.SecurityContext.SeccompProfile, path)
	}
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		if c.SecurityContext != nil {
			check(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, c.SecurityContext.SeccompProfile, path.Child(list).Index(i))
		}
	})
	return errs
}

// validateAppArmorAnnotations does the same for AppArmor, where containers without a profile have their pod's.
func validateAppArmorAnnotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	if spec.OS != nil && spec.OS.Name == corev1.Windows {
		return nil
	}
	var errs field.ErrorList
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		profile := cmp.Or(ownAppArmor(c), podAppArmor(spec))
		if value, ok := annotations[appArmorAnnotationBase+c.Name]; ok && profile != nil {
			errs = append(errs, profileAgrees("apparmor", value, string(profile.Type), profile.LocalhostProfile,
				path.Child(list).Index(i).Child("securityContext", "appArmorProfile"))...)
		}
	})
	return errs
}

// profileAgrees compares an annotation with the type and the name of a profile; what is the kind of profile.
func profileAgrees(what, annotation, kind string, local *string, path *field.Path) field.ErrorList {
	name, isLocal := strings.CutPrefix(annotation, corev1.SeccompLocalhostProfileNamePrefix)
	isDefault := annotation == corev1.SeccompProfileRuntimeDefault || what == "seccomp" && annotation == corev1.DeprecatedSeccompProfileDockerDefault
	same, known := map[string]bool{
		string(corev1.SeccompProfileTypeUnconfined):     annotation == corev1.SeccompProfileNameUnconfined,
		string(corev1.SeccompProfileTypeRuntimeDefault): isDefault,
		string(corev1.SeccompProfileTypeLocalhost):      isLocal,
	}[kind]
	switch {
	case known && !same:
		return field.ErrorList{field.Forbidden(path.Child("type"), what+" type in annotation and field must match")}
	case known && isLocal && (local == nil || *local != name):
		return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), what+" profile in annotation and field must match")}
	}
	return nil
}

// isDeletionCost tells whether the value is a number as one would write it: no plus sign, no leading zeros.
func isDeletionCost(value string) bool {
	if len(value) > 0 && (value[0] == '+' || value[0] == '0' && len(value) > 1) {
		return false
	}
	_, err := strconv.ParseInt(value, 10, 32)
	return err == nil
}

// validatePodAnnotationsUpdate keeps annotations that name facts: that the kubelet made this pod from a file, and profiles.
func validatePodAnnotationsUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("metadata", "annotations")
	errs := validatePodAnnotations(p.Annotations, &p.Spec, path)
	for _, key := range sortedKeys(old.Annotations) {
		if value, ok := p.Annotations[key]; ok && value == old.Annotations[key] {
			continue
		}
		if strings.HasPrefix(key, appArmorAnnotationBase) {
			errs = append(errs, field.Forbidden(path.Key(key), "may not remove or update AppArmor annotations"))
		}
		if key == mirrorPodAnnotation {
			errs = append(errs, field.Forbidden(path.Key(key), "may not remove or update mirror pod annotation"))
		}
	}
	for _, key := range sortedKeys(p.Annotations) {
		if _, ok := old.Annotations[key]; ok {
			continue
		}
		if strings.HasPrefix(key, appArmorAnnotationBase) {
			errs = append(errs, field.Forbidden(path.Key(key), "may not add AppArmor annotations"))
		}
		if key == mirrorPodAnnotation {
			errs = append(errs, field.Forbidden(path.Key(key), "may not add mirror pod annotation"))
		}
	}
	return errs
}
