package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

var (
	envFields    = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	volumeFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")
	// knownFields are those that can be converted at all; some of them can be used nowhere.
	knownFields = envFields.Union(volumeFields).Union(sets.New("spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"))

	resourceFields        = sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage")
	resourceFieldPrefixes = []string{"limits.hugepages-", "requests.hugepages-"}
)

func validateEnv(c *podContext, vars []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range vars {
		at := path.Index(i)
		if vars[i].Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, validate.EnvVarName(vars[i].Name, at.Child("name"))...)
		}
		if vars[i].ValueFrom != nil {
			errs = append(errs, validateEnvSource(c, &vars[i], at.Child("valueFrom"))...)
		}
	}
	return errs
}

func validateEnvSource(c *podContext, env *corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	source, count := env.ValueFrom, 0
	if source.FieldRef != nil {
		count++
		errs = append(errs, validateFieldRef(source.FieldRef, envFields, path.Child("fieldRef"))...)
	}
	if source.ResourceFieldRef != nil {
		count++
		errs = append(errs, validateResourceFieldRef(source.ResourceFieldRef, path.Child("resourceFieldRef"), false)...)
	}
	if source.ConfigMapKeyRef != nil {
		count++
		errs = append(errs, keyRef(source.ConfigMapKeyRef.Name, source.ConfigMapKeyRef.Key, path.Child("configMapKeyRef"))...)
	}
	if source.SecretKeyRef != nil {
		count++
		errs = append(errs, keyRef(source.SecretKeyRef.Name, source.SecretKeyRef.Key, path.Child("secretKeyRef"))...)
	}
	if source.FileKeyRef != nil {
		count++
		errs = append(errs, validateFileKeyRef(c, source.FileKeyRef, path.Child("fileKeyRef"))...)
	}
	switch {
	case count == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case env.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case count > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(name, key string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, validate.ObjectName(name, path.Child("name"), apivalidation.NameIsDNSSubdomain)...)
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, validate.ConfigMapKey(key, path.Child("key"))...)
}

// validateFileKeyRef: the file is written by another container of the pod into a volume that all can see.
func validateFileKeyRef(c *podContext, ref *corev1.FileKeySelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else if invalid := validate.DNSLabel(ref.VolumeName, path.Child("volumeName")); len(invalid) > 0 {
		errs = append(errs, invalid...)
	} else if v, ok := c.volumes[ref.VolumeName]; !ok {
		errs = append(errs, field.NotFound(path.Child("volumeName"), ref.VolumeName))
	} else if v.EmptyDir == nil {
		errs = append(errs, field.Invalid(path.Child("volumeName"), ref.VolumeName, "referenced volume must be of type emptyDir"))
	}
	if ref.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	} else {
		errs = append(errs, validate.DescendingPath(ref.Path, path.Child("path"))...)
	}
	if ref.Key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, validate.EnvVarName(ref.Key, path.Child("key"))...)
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, source := range sources {
		at := path.Index(i)
		if source.Prefix != "" {
			errs = append(errs, validate.EnvVarName(source.Prefix, at.Child("prefix"))...)
		}
		count := 0
		if source.ConfigMapRef != nil {
			count++
			errs = append(errs, objectRef(source.ConfigMapRef.Name, at.Child("configMapRef"))...)
		}
		if source.SecretRef != nil {
			count++
			errs = append(errs, objectRef(source.SecretRef.Name, at.Child("secretRef"))...)
		}
		switch {
		case count == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case count > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func objectRef(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return validate.ObjectName(name, path.Child("name"), apivalidation.NameIsDNSSubdomain)
}

// validateFieldRef checks a reference to a field of the pod itself; labels and annotations may be subscripted.
func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed sets.Set[string], path *field.Path) field.ErrorList {
	switch {
	case ref.APIVersion == "":
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	case ref.FieldPath == "":
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	at := path.Child("fieldPath")
	name, key, subscripted := splitSubscript(ref.FieldPath)
	switch {
	case ref.APIVersion != "v1":
		return field.ErrorList{field.Invalid(at, ref.FieldPath, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", ref.APIVersion))}
	case !knownFields.Has(name) || subscripted && name != "metadata.labels" && name != "metadata.annotations":
		return field.ErrorList{field.Invalid(at, ref.FieldPath, fmt.Sprintf("error converting fieldPath: field label not supported: %s", ref.FieldPath))}
	case !subscripted:
		return validate.OneOf(name, at, sets.List(allowed)...)
	case name == "metadata.annotations":
		return validate.Messages(path, key, validation.IsQualifiedName(strings.ToLower(key)))
	}
	return validate.Messages(path, key, validation.IsQualifiedName(key))
}

// splitSubscript takes metadata.labels['key'] apart.
func splitSubscript(fieldPath string) (name, key string, ok bool) {
	rest, found := strings.CutSuffix(fieldPath, "']")
	if !found {
		return fieldPath, "", false
	}
	name, key, found = strings.Cut(rest, "['")
	if !found || name == "" {
		return fieldPath, "", false
	}
	return name, key, true
}

// validateResourceFieldRef checks a reference to what a container asks for; a volume has to name the container.
func validateResourceFieldRef(ref *corev1.ResourceFieldSelector, path *field.Path, volume bool) field.ErrorList {
	if volume && ref.ContainerName == "" {
		return field.ErrorList{field.Required(path.Child("containerName"), "")}
	}
	if ref.Resource == "" {
		return field.ErrorList{field.Required(path.Child("resource"), "")}
	}
	known := resourceFields.Has(ref.Resource) || slices.ContainsFunc(resourceFieldPrefixes, func(prefix string) bool {
		return strings.HasPrefix(ref.Resource, prefix)
	})
	if !known {
		return validate.OneOf(ref.Resource, path.Child("resource"), sets.List(resourceFields)...)
	}
	return validateDivisor(ref.Resource, ref.Divisor, path.Child("divisor"))
}

var byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

func validateDivisor(name string, divisor resource.Quantity, path *field.Path) field.ErrorList {
	allowed, measured, join := byteDivisors, "memory", ", "
	switch {
	case divisor.IsZero():
		return nil
	case strings.HasSuffix(name, ".cpu"):
		allowed, measured, join = []string{"1m", "1"}, "cpu", " and "
	case strings.HasSuffix(name, ".ephemeral-storage"):
		measured = "local ephemeral storage"
	case strings.Contains(name, ".hugepages-"):
		measured = "hugepages"
	}
	if slices.Contains(allowed, divisor.String()) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, fmt.Sprintf("only divisor's values %s are supported with the %s resource",
		strings.Join(allowed, join), measured))}
}
