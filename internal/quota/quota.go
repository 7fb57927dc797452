// Package quota knows how much of a namespace's ResourceQuota an object uses. The API server asks it when an object is
// admitted, the quota controller when it counts what is there.
package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/clock"
)

// Lister lists the objects of one resource in a namespace.
type Lister func(resource schema.GroupVersionResource, namespace string) ([]runtime.Object, error)

// ForAdmission returns the configuration for admission, which never lists: it adds to what the quota's status says.
func ForAdmission(d Devices) quotav1.Configuration {
	return newConfiguration(func(schema.GroupVersionResource, string) ([]runtime.Object, error) { return nil, nil }, d)
}

// ForController returns the configuration for counting with the given lister. Resources without an evaluator here are counted by
// ObjectCount.
func ForController(list Lister, d Devices) quotav1.Configuration { return newConfiguration(list, d) }

// ObjectCount returns the evaluator of count/<resource>.<group> for a resource that has no evaluator of its own.
func ObjectCount(resource schema.GroupVersionResource, list Lister) quotav1.Evaluator {
	return generic.NewObjectCountEvaluator(resource.GroupResource(), listOne(list, resource), "")
}

func newConfiguration(list Lister, d Devices) quotav1.Configuration {
	core := corev1.SchemeGroupVersion
	evaluators := []quotav1.Evaluator{
		newPods(list, clock.RealClock{}),
		newServices(list),
		newClaims(list),
		newResourceClaims(list, d),
	}
	// Counted under their plain names as well, from before there was count/.
	for _, alias := range []corev1.ResourceName{
		corev1.ResourceConfigMaps, corev1.ResourceQuotas, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	} {
		resource := core.WithResource(string(alias))
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(resource.GroupResource(), listOne(list, resource), alias))
	}
	return generic.NewConfiguration(evaluators, Ignored())
}

// Ignored are resources that no quota counts: what is not stored, and events, which tell about trouble and must not cause it.
func Ignored() map[schema.GroupResource]struct{} {
	return map[schema.GroupResource]struct{}{
		{Group: "", Resource: "bindings"}:                                      {},
		{Group: "", Resource: "componentstatuses"}:                             {},
		{Group: "", Resource: "events"}:                                        {},
		{Group: "events.k8s.io", Resource: "events"}:                           {},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             {},
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       {},
		{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      {},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: {},
		{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  {},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   {},
		{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: {},
		{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             {},
		{Group: "internal.apiserver.k8s.io", Resource: "storageversions"}:      {},
		{Group: "metrics.k8s.io", Resource: "pods"}:                            {},
		{Group: "metrics.k8s.io", Resource: "nodes"}:                           {},
	}
}

func listOne(list Lister, resource schema.GroupVersionResource) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) { return list(resource, namespace) }
}

// evaluator is one kind's part in quotas, as values and functions.
type evaluator[T runtime.Object] struct {
	resource schema.GroupVersionResource
	list     Lister
	// handles tells whether a write of the object can change its usage; only creates and updates are asked about.
	handles func(operation admission.Operation, subresource string) bool
	// moves tells of an update that handles leaves out whether it moves the object from one scope to another, or else concerns a
	// quota; nil means that none does.
	moves func(subresource string, obj, old T) bool
	// counts tells whether the usage has something to say about a resource name.
	counts func(name corev1.ResourceName) bool
	usage  func(obj T) corev1.ResourceList
	// required returns an error if the object must state something that a quota limits; nil means no such rule.
	required func(limited []corev1.ResourceName, obj T) error
	// inScope tells whether a scope of a quota selects the object; nil means that none does.
	inScope func(scope corev1.ScopedResourceSelectorRequirement, obj T) (bool, error)
}

func (e *evaluator[T]) GroupResource() schema.GroupResource { return e.resource.GroupResource() }

func (e *evaluator[T]) Handles(a admission.Attributes) bool {
	if e.handles(a.GetOperation(), a.GetSubresource()) {
		return true
	}
	obj, ok := a.GetObject().(T)
	old, was := a.GetOldObject().(T)
	return ok && was && e.moves != nil && a.GetOperation() == admission.Update && e.moves(a.GetSubresource(), obj, old)
}

func (e *evaluator[T]) Constraints(limited []corev1.ResourceName, item runtime.Object) error {
	if e.required == nil {
		return nil
	}
	obj, err := cast[T](item)
	if err != nil {
		return err
	}
	return e.required(limited, obj)
}

func (e *evaluator[T]) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	var matching []corev1.ResourceName
	for _, name := range names {
		if e.counts(name) && !slices.Contains(matching, name) {
			matching = append(matching, name)
		}
	}
	return matching
}

func (e *evaluator[T]) Matches(quota *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(quota, item, e.MatchingResources, e.matchScope)
}

func (e *evaluator[T]) matchScope(scope corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	if e.inScope == nil {
		return false, nil
	}
	obj, err := cast[T](item)
	if err != nil {
		return false, err
	}
	return e.inScope(scope, obj)
}

func (e *evaluator[T]) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matching := []corev1.ScopedResourceSelectorRequirement{}
	for _, scope := range scopes {
		ok, err := e.matchScope(scope, item)
		if err != nil {
			return nil, err
		}
		if ok {
			matching = append(matching, scope)
		}
	}
	return matching, nil
}

func (e *evaluator[T]) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	uncovered := []corev1.ScopedResourceSelectorRequirement{}
	for _, scope := range limited {
		if !slices.ContainsFunc(matched, func(m corev1.ScopedResourceSelectorRequirement) bool { return m.ScopeName == scope.ScopeName }) {
			uncovered = append(uncovered, scope)
		}
	}
	return uncovered, nil
}

func (e *evaluator[T]) Usage(item runtime.Object) (corev1.ResourceList, error) {
	obj, err := cast[T](item)
	if err != nil {
		return nil, err
	}
	return e.usage(obj), nil
}

func (e *evaluator[T]) UsageStats(options quotav1.UsageStatsOptions) (quotav1.UsageStats, error) {
	return generic.CalculateUsageStats(options, listOne(e.list, e.resource), e.matchScope, e.Usage)
}
