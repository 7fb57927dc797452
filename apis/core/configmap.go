package core

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// configMap is configuration for pods to read.
var configMap = resource.Definition[*corev1.ConfigMap]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ConfigMap", Plural: "configmaps", ShortNames: []string{"cm"},
	Namespaced: true, AllowUnconditionalUpdate: true,
	Validate: validateConfigMap, ValidateUpdate: validateConfigMapUpdate,
	Columns: resource.Columns(resource.Column[*corev1.ConfigMap]{
		Name: "Data", Description: corev1.ConfigMap{}.SwaggerDoc()["data"],
		Get: func(cm *corev1.ConfigMap) any { return int64(len(cm.Data) + len(cm.BinaryData)) },
	}),
}

func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		path := field.NewPath("data").Key(key)
		errs = append(errs, validate.ConfigMapKey(key, path)...)
		if _, found := cm.BinaryData[key]; found {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(cm.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(cm.BinaryData)) {
		path := field.NewPath("binaryData").Key(key)
		errs = append(errs, validate.ConfigMapKey(key, path)...)
		if _, found := cm.Data[key]; found {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in data"))
		}
		size += len(cm.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), cm, corev1.MaxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(cm, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if ptr.Deref(old.Immutable, false) {
		errs = immutableData(ptr.Deref(cm.Immutable, false), cm.Data, old.Data)
		if !validate.Equal(cm.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), immutableDataMessage))
		}
	}
	return append(errs, validateConfigMap(cm)...)
}

const immutableDataMessage = "field is immutable when `immutable` is set"

// immutableData checks an update of a ConfigMap or Secret that was marked immutable.
func immutableData(stillImmutable bool, data, old any) field.ErrorList {
	var errs field.ErrorList
	if !stillImmutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), immutableDataMessage))
	}
	if !validate.Equal(data, old) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), immutableDataMessage))
	}
	return errs
}
