package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// resourceQuota bounds what a namespace may use altogether.
var resourceQuota = resource.Definition[*corev1.ResourceQuota]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ResourceQuota", NameOnce: true, Plural: "resourcequotas", ShortNames: []string{"quota"},
	Namespaced: true, HasStatus: true, GenerationOf: resource.NoGeneration[*corev1.ResourceQuota],
	AllowUnconditionalUpdate: true, ReturnDeleted: true,
	Default: func(q *corev1.ResourceQuota) { roundUp(q.Spec.Hard, q.Status.Hard, q.Status.Used) },
	Validate: func(q *corev1.ResourceQuota) field.ErrorList {
		return validateQuotaSpec(&q.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
		errs := validateQuotaSpec(&q.Spec, field.NewPath("spec"))
		if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, validate.ImmutableMessage))
		}
		return errs
	},
	ValidateStatus: func(q, _ *corev1.ResourceQuota) field.ErrorList {
		return slices.Concat(
			validate.ResourceList(q.Status.Hard, field.NewPath("status", "hard"), quotaResourceName),
			validate.ResourceList(q.Status.Used, field.NewPath("status", "used"), quotaResourceName))
	},
	Columns: resource.Columns([]resource.Column[*corev1.ResourceQuota]{
		{
			Name: "Request", Description: "Request represents a minimum amount of cpu/memory that a container may consume.",
			Get: func(q *corev1.ResourceQuota) any { return printQuota(q, false) },
		},
		{
			Name: "Limit", Description: "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
			Get: func(q *corev1.ResourceQuota) any { return printQuota(q, true) },
		},
	}...),
}

func printQuota(q *corev1.ResourceQuota, limits bool) string {
	var printed []string
	for _, name := range validate.SortedNames(q.Status.Hard) {
		if strings.HasPrefix(string(name), "limits.") == limits {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			printed = append(printed, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
		}
	}
	return strings.Join(printed, ", ")
}

// computeQuotas are the standard resources of pods that a quota may bound, objectQuotas the counts of objects.
var (
	podComputeQuotas = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory)
	objectQuotas = sets.New(corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts,
		corev1.ResourceServicesLoadBalancers)
	otherQuotas = sets.New(corev1.ResourcePods, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsEphemeralStorage, corev1.ResourceRequestsStorage)
)

func isStandardQuota(name corev1.ResourceName) bool {
	return podComputeQuotas.Has(name) || objectQuotas.Has(name) || otherQuotas.Has(name) || validate.IsHugePages(name) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

func quotaResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := validate.QualifiedName(string(name), path)
	if !strings.Contains(string(name), "/") && !isStandardQuota(name) {
		errs = append(errs, field.Invalid(path, string(name), "must be a standard resource for quota"))
	}
	return errs
}

func validateQuotaSpec(spec *corev1.ResourceQuotaSpec, path *field.Path) field.ErrorList {
	errs := validate.ResourceList(spec.Hard, path.Child("hard"), quotaResourceName)
	names := validate.SortedNames(spec.Hard)
	if len(spec.Scopes) > 0 {
		scopes := path.Child("scopes")
		for _, scope := range spec.Scopes {
			if !isQuotaScope(scope) {
				errs = append(errs, field.Invalid(scopes, spec.Scopes, "unsupported scope"))
			}
		}
		errs = append(errs, validateQuotaScopes(spec.Scopes, names, spec.Scopes, scopes)...)
	}
	if spec.ScopeSelector == nil {
		return errs
	}
	expressions := path.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, requirement := range spec.ScopeSelector.MatchExpressions {
		scopes = append(scopes, requirement.ScopeName)
		if !isQuotaScope(requirement.ScopeName) {
			errs = append(errs, field.Invalid(expressions.Child("scopeName"), requirement.ScopeName, "unsupported scope"))
		}
		errs = append(errs, validateScopeRequirement(requirement, expressions)...)
	}
	return append(errs, validateQuotaScopes(scopes, names, spec.ScopeSelector, expressions)...)
}

// podScopes narrow a quota to some pods; scopes of volume attributes classes narrow it to some claims.
var podScopes = []corev1.ResourceQuotaScope{
	corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
}

func isQuotaScope(scope corev1.ResourceQuotaScope) bool {
	return slices.Contains(podScopes, scope) || scope == corev1.ResourceQuotaScopeVolumeAttributesClass
}

func validateQuotaScopes(scopes []corev1.ResourceQuotaScope, names []corev1.ResourceName, value any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, scope := range scopes {
		for _, name := range names {
			if isStandardQuota(name) && !scopeCovers(scope, name) {
				errs = append(errs, field.Invalid(path, value, "unsupported scope applied to resource"))
			}
		}
	}
	for _, conflict := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, conflict[0]) && slices.Contains(scopes, conflict[1]) {
			errs = append(errs, field.Invalid(path, value, "conflicting scopes"))
		}
	}
	return errs
}

// scopeCovers tells whether the quota of a resource can be narrowed by the scope. Best-effort pods ask for nothing but a place.
func scopeCovers(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return name == corev1.ResourcePods || podComputeQuotas.Has(name)
	}
	return true
}

func validateScopeRequirement(r corev1.ScopedResourceSelectorRequirement, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	takesValues := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
	if slices.Contains(podScopes, r.ScopeName) && !takesValues && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "must be 'Exists' when scope is any of "+
			"ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, "+
			"ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(path.Child("values"),
				"must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(path.Child("values"), r.Values,
				"must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}
