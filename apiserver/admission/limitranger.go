package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	resourcehelper "k8s.io/component-helpers/resource"
)

// limitRangerAnnotation tells which figures were not the author's.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

const (
	// An empty cache may only be late, so the API is asked; its answer counts for a while, since most namespaces have no ranges.
	liveRangesKept = 30 * time.Second
	liveRangesMost = 10000 // namespaces
)

// limitRanger gives containers the defaults of the namespace's limit ranges and refuses what is outside of them.
func limitRanger(d dependencies) hooks {
	informer := d.factory.Core().V1().LimitRanges()
	ranges := &limitRanges{client: d.client, lister: informer.Lister(), live: utilcache.NewLRUExpireCache(liveRangesMost)}
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok {
				return nil
			}
			return ranges.each(ctx, a, func(r *corev1.LimitRange) error { applyDefaults(pod, r); return nil })
		},
		validate: func(ctx context.Context, a admission.Attributes) error {
			return ranges.each(ctx, a, func(r *corev1.LimitRange) error {
				switch obj := a.GetObject().(type) {
				case *corev1.Pod:
					return checkPodLimits(obj, r)
				case *corev1.PersistentVolumeClaim:
					return checkClaimLimits(obj, r)
				}
				return nil
			})
		},
	}
}

// limitRanges finds the limit ranges of a namespace.
type limitRanges struct {
	client kubernetes.Interface
	lister corelisters.LimitRangeLister
	live   *utilcache.LRUExpireCache
}

func (l *limitRanges) each(ctx context.Context, a admission.Attributes, visit func(*corev1.LimitRange) error) error {
	// A pod's resources are settled when it is created; later only a resize changes them. An object on its way out is let go.
	resize := a.GetSubresource() == "resize" && a.GetOperation() == admission.Update
	if !resize && (!mainResource(a) || (a.GetResource().Resource == "pods" && a.GetOperation() == admission.Update)) {
		return nil
	}
	if old, ok := a.GetOldObject().(metav1.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil
	}
	ranges, err := l.of(ctx, a.GetNamespace())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	for _, r := range ranges {
		if err := visit(r); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

func (l *limitRanges) of(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	ranges, err := l.lister.LimitRanges(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	if len(ranges) == 0 {
		known, ok := l.live.Get(namespace)
		if !ok {
			list, err := l.client.CoreV1().LimitRanges(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			var items []*corev1.LimitRange
			for i := range list.Items {
				items = append(items, &list.Items[i])
			}
			l.live.Add(namespace, items, liveRangesKept)
			known = items
		}
		ranges = known.([]*corev1.LimitRange)
	}
	return slices.SortedFunc(slices.Values(ranges), func(x, y *corev1.LimitRange) int { return strings.Compare(x.Name, y.Name) }), nil
}

// applyDefaults fills the requests and limits that a pod's containers leave out.
func applyDefaults(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var notes []string
	apply := func(c *corev1.Container, kind string) {
		for _, part := range []struct {
			list     *corev1.ResourceList
			defaults corev1.ResourceList
			what     string
		}{{&c.Resources.Requests, requests, "request"}, {&c.Resources.Limits, limits, "limit"}} {
			if len(part.defaults) == 0 {
				continue
			}
			if *part.list == nil {
				*part.list = corev1.ResourceList{}
			}
			if set := fill(*part.list, part.defaults); len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part.what, kind, c.Name))
			}
		}
	}
	for i := range pod.Spec.Containers {
		apply(&pod.Spec.Containers[i], "container")
	}
	for i := range pod.Spec.InitContainers {
		apply(&pod.Spec.InitContainers[i], "init container")
	}
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

// fill copies what is missing and returns the names of it, sorted.
func fill(into, from corev1.ResourceList) []string {
	var set []string
	for name, quantity := range from {
		if _, ok := into[name]; !ok {
			into[name] = quantity.DeepCopy()
			set = append(set, string(name))
		}
	}
	slices.Sort(set)
	return set
}

func checkPodLimits(pod *corev1.Pod, r *corev1.LimitRange) error {
	var errs []error
	for _, item := range r.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for i := range list {
					errs = append(errs, checkItem(item, list[i].Resources.Requests, list[i].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, checkItem(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))...)
		default: // limits of claims
		}
	}
	return utilerrors.NewAggregate(errs)
}

func checkItem(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	kind := item.Type
	for _, name := range sorted(item.Min) {
		enforced := item.Min[name]
		request, hasRequest := requests[name]
		limit, hasLimit := limits[name]
		switch {
		case !hasRequest:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, kind, enforced.String()))
		case request.Cmp(enforced) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, kind, enforced.String(), request.String()))
		case hasLimit && limit.Cmp(enforced) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, kind, enforced.String(), limit.String()))
		}
	}
	for _, name := range sorted(item.Max) {
		enforced := item.Max[name]
		request, hasRequest := requests[name]
		limit, hasLimit := limits[name]
		switch {
		case !hasLimit:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, kind, enforced.String()))
		case limit.Cmp(enforced) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, kind, enforced.String(), limit.String()))
		case hasRequest && request.Cmp(enforced) > 0:
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, kind, enforced.String(), request.String()))
		}
	}
	for _, name := range sorted(item.MaxLimitRequestRatio) {
		if err := checkRatio(kind, name, item.MaxLimitRequestRatio[name], requests[name], limits[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func checkRatio(kind corev1.LimitType, name corev1.ResourceName, enforced, request, limit resource.Quantity) error {
	prefix := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, kind, enforced.String())
	switch {
	case request.IsZero():
		return fmt.Errorf("%s, but no request is specified or request is 0", prefix)
	case limit.IsZero():
		return fmt.Errorf("%s, but no limit is specified or limit is 0", prefix)
	}
	ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	if ratio > enforced.AsApproximateFloat64() {
		return fmt.Errorf("%s, but provided ratio is %f", prefix, ratio)
	}
	return nil
}

func checkClaimLimits(claim *corev1.PersistentVolumeClaim, r *corev1.LimitRange) error {
	var errs []error
	requests := claim.Spec.Resources.Requests
	for _, item := range r.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		errs = append(errs, checkItem(corev1.LimitRangeItem{Type: item.Type, Min: item.Min}, requests, nil)...)
		for _, name := range sorted(item.Max) {
			enforced := item.Max[name]
			request, ok := requests[name]
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, enforced.String()))
			case request.Cmp(enforced) > 0:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, enforced.String(), request.String()))
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

func sorted(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
