package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// limitRange bounds, and fills in, what single objects of a namespace ask for.
var limitRange = resource.Definition[*corev1.LimitRange]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "LimitRange", Plural: "limitranges", ShortNames: []string{"limits"},
	Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	Default: defaultLimitRange,
	Prepare: func(l, _ *corev1.LimitRange) {
		resource.SetDefault(&l.Name, string(uuid.NewUUID())) // the only kind that may go without
	},
	Validate: validateLimitRange,
	Columns: []resource.Column[*corev1.LimitRange]{
		resource.NameColumn[*corev1.LimitRange](),
		{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], Get: func(l *corev1.LimitRange) any {
			return l.CreationTimestamp.UTC().Format(time.RFC3339)
		}},
	},
}

func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		limit := &l.Spec.Limits[i]
		if limit.Type == corev1.LimitTypeContainer {
			limit.Default = fillFrom(limit.Default, limit.Max)
			limit.DefaultRequest = fillFrom(fillFrom(limit.DefaultRequest, limit.Default), limit.Min)
		}
		roundUp(limit.Max, limit.Min, limit.Default, limit.DefaultRequest, limit.MaxLimitRequestRatio)
	}
}

// fillFrom adds the entries of other that list has not.
func fillFrom(list, other corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, quantity := range other {
		if _, found := list[name]; !found {
			list[name] = quantity.DeepCopy()
		}
	}
	return list
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	types := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		limit, path := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(limit.Type, path.Child("type"))...)
		if types.Has(limit.Type) {
			errs = append(errs, field.Duplicate(path.Child("type"), limit.Type))
		}
		types.Insert(limit.Type)
		errs = append(errs, validateLimitItem(limit, path)...)
	}
	return errs
}

func validateLimitType(kind corev1.LimitType, path *field.Path) field.ErrorList {
	errs := validate.QualifiedName(string(kind), path)
	standard := kind == corev1.LimitTypePod || kind == corev1.LimitTypeContainer || kind == corev1.LimitTypePersistentVolumeClaim
	if len(errs) == 0 && !standard && !strings.Contains(string(kind), "/") {
		errs = append(errs, field.Invalid(path, kind, "must be a standard limit type or fully qualified"))
	}
	return errs
}

func validateLimitItem(limit *corev1.LimitRangeItem, path *field.Path) field.ErrorList {
	nameRule := validate.ResourceName
	if limit.Type == corev1.LimitTypePod || limit.Type == corev1.LimitTypeContainer {
		nameRule = validate.ContainerResourceName
	}
	var errs field.ErrorList
	names := sets.New[corev1.ResourceName]()
	for _, entry := range []struct {
		name string
		list corev1.ResourceList
	}{
		{"max", limit.Max},
		{"min", limit.Min},
		{"default", limit.Default},
		{"defaultRequest", limit.DefaultRequest},
		{"maxLimitRequestRatio", limit.MaxLimitRequestRatio},
	} {
		if limit.Type == corev1.LimitTypePod && strings.HasPrefix(entry.name, "default") {
			if len(entry.list) > 0 {
				errs = append(errs, field.Forbidden(path.Child(entry.name), "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for _, name := range validate.SortedNames(entry.list) {
			errs = append(errs, nameRule(name, path.Child(entry.name).Key(string(name)))...)
			names.Insert(name)
		}
	}
	if limit.Type == corev1.LimitTypePersistentVolumeClaim {
		_, hasMin := limit.Min[corev1.ResourceStorage]
		_, hasMax := limit.Max[corev1.ResourceStorage]
		if !hasMin && !hasMax {
			errs = append(errs, field.Required(path.Child("limits"),
				"either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for _, name := range sets.List(names) {
		errs = append(errs, validateLimitOrder(limit, name, path)...)
	}
	return errs
}

// validateLimitOrder checks min ≤ defaultRequest ≤ default ≤ max for one resource, and the ratio.
func validateLimitOrder(limit *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	type bound struct {
		field, words string
		quantity     apiresource.Quantity
		found        bool
	}
	get := func(fieldName, words string, list corev1.ResourceList) bound {
		quantity, found := list[name]
		return bound{fieldName, words, quantity, found}
	}
	low, high := get("min", "min value", limit.Min), get("max", "max value", limit.Max)
	request := get("defaultRequest", "default request value", limit.DefaultRequest)
	standard := get("default", "default value", limit.Default)
	if limit.Type == corev1.LimitTypePod {
		request.found, standard.found = false, false
	}
	var errs field.ErrorList
	ordered := func(a, b, at, shown bound, words string) {
		if a.found && b.found && a.quantity.Cmp(b.quantity) > 0 {
			errs = append(errs, field.Invalid(path.Child(at.field).Key(string(name)), shown.quantity.String(),
				fmt.Sprintf("%s %s is greater than %s %s", a.words, a.quantity.String(), words, b.quantity.String())))
		}
	}
	ordered(low, high, low, low, high.words)
	ordered(low, request, request, request, request.words)
	ordered(request, high, request, request, high.words)
	ordered(request, standard, request, request, "default limit value")
	ordered(low, standard, standard, low, standard.words)
	ordered(standard, high, standard, high, high.words)
	if !validate.IsOvercommitAllowed(name) && standard.found && request.found && standard.quantity.Cmp(request.quantity) != 0 {
		errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(name)), request.quantity.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", standard.quantity.String(), request.quantity.String(), name)))
	}
	return append(errs, validateLimitRatio(limit, name, path.Child("maxLimitRequestRatio").Key(string(name)))...)
}

func validateLimitRatio(limit *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	ratio, found := limit.MaxLimitRequestRatio[name]
	if !found {
		return nil
	}
	var errs field.ErrorList
	if ratio.Cmp(apiresource.MustParse("1")) < 0 {
		errs = append(errs, field.Invalid(path, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	low, hasMin := limit.Min[name]
	high, hasMax := limit.Max[name]
	if hasMin && hasMax {
		// In thousandths where all three can be told in them.
		r, h, l := float64(ratio.Value()), high.Value(), low.Value()
		if max(ratio.Value(), h, l) < apiresource.MaxMilliValue {
			r, h, l = float64(ratio.MilliValue())/1000, high.MilliValue(), low.MilliValue()
		}
		if largest := float64(h) / float64(l); r > largest {
			errs = append(errs, field.Invalid(path, ratio.String(),
				fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), largest)))
		}
	}
	return errs
}
