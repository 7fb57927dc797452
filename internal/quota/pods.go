package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/clock"
)

const (
	countPods      = corev1.ResourceName("count/pods")
	requestsPrefix = "requests."
)

// podNames are the fixed names under which quotas limit pods. Huge pages and extended resources come on top, by prefix.
var podNames = []corev1.ResourceName{
	countPods, corev1.ResourcePods,
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
}

// mustState are the names that every container must state once a quota limits them, else it could use any amount uncounted.
var mustState = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

func newPods(list Lister, now clock.PassiveClock) quotav1.Evaluator {
	return &evaluator[*corev1.Pod]{
		resource: corev1.SchemeGroupVersion.WithResource("pods"),
		list:     list,
		handles: func(operation admission.Operation, subresource string) bool {
			return (operation == admission.Create && subresource == "") || (operation == admission.Update && subresource == "resize")
		},
		moves: func(subresource string, pod, old *corev1.Pod) bool {
			return subresource == "" && terminating(pod) != terminating(old)
		},
		counts:   countsPods,
		usage:    func(pod *corev1.Pod) corev1.ResourceList { return podUsage(pod, now) },
		required: podStates,
		inScope:  podInScope,
	}
}

func countsPods(name corev1.ResourceName) bool {
	s := string(name)
	return slices.Contains(podNames, name) || strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(s, corev1.ResourceRequestsHugePagesPrefix) || isExtendedRequest(s)
}

// isExtendedRequest knows requests.example.com/gpu: only requests of extended resources are limited, since these do not overcommit.
func isExtendedRequest(name string) bool {
	resource, ok := strings.CutPrefix(name, requestsPrefix)
	return ok && isExtended(corev1.ResourceName(resource))
}

func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.HasPrefix(s, resourcev1.ResourceDeviceClassPrefix) || strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(s, requestsPrefix)
}

// podUsage is what a pod uses: itself as an object for as long as it exists, the rest until it has ended.
func podUsage(pod *corev1.Pod, now clock.PassiveClock) corev1.ResourceList {
	used := corev1.ResourceList{countPods: *resource.NewQuantity(1, resource.DecimalSI)}
	if ended(pod, now) {
		return used
	}
	used[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	for name, quantity := range resourcehelper.PodRequests(pod, options) {
		switch {
		case name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			used[name], used[requestsPrefix+name] = quantity, quantity
		case isExtended(name):
			used[requestsPrefix+name] = quantity
		}
	}
	for name, quantity := range resourcehelper.PodLimits(pod, options) {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
			used["limits."+name] = quantity
		}
	}
	return used
}

// ended tells whether a pod no longer uses anything: it is finished, or should have been gone by now with its node not answering.
func ended(pod *corev1.Pod, now clock.PassiveClock) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	grace := time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	return now.Now().After(pod.DeletionTimestamp.Add(grace))
}

// podStates returns an error that names the containers which leave out what a quota limits.
func podStates(limited []corev1.ResourceName, pod *corev1.Pod) error {
	var missing []string
	for _, name := range mustState {
		if !slices.Contains(limited, name) || statedFor(pod.Spec.Resources, name) {
			continue
		}
		var containers []string
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				if !statedFor(&list[i].Resources, name) {
					containers = append(containers, list[i].Name)
				}
			}
		}
		if len(containers) > 0 {
			slices.Sort(containers)
			missing = append(missing, fmt.Sprintf("%s for: %s", name, strings.Join(containers, ",")))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("must specify %s", strings.Join(missing, "; "))
}

func statedFor(r *corev1.ResourceRequirements, name corev1.ResourceName) bool {
	if r == nil {
		return false
	}
	list := r.Requests
	base, isLimit := strings.CutPrefix(string(name), "limits.")
	if isLimit {
		list = r.Limits
	}
	_, ok := list[corev1.ResourceName(strings.TrimPrefix(base, requestsPrefix))]
	return ok
}

func podInScope(scope corev1.ScopedResourceSelectorRequirement, pod *corev1.Pod) (bool, error) {
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		if scope.Operator == corev1.ScopeSelectorOpExists {
			return pod.Spec.PriorityClassName != "", nil
		}
		return selects(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity), nil
	default: // a scope of other kinds than pods
		return false, nil
	}
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// bestEffort tells whether neither the pod nor a container asks for CPU or memory, which is what the QoS class says.
func bestEffort(pod *corev1.Pod) bool {
	asks := func(r *corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if quantity := list[name]; !quantity.IsZero() {
					return true
				}
			}
		}
		return false
	}
	if pod.Spec.Resources != nil && asks(pod.Spec.Resources) {
		return false
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if asks(&list[i].Resources) {
				return false
			}
		}
	}
	return true
}

// selects matches one value, or none, against a scope selector.
func selects(scope corev1.ScopedResourceSelectorRequirement, values ...string) (bool, error) {
	operators := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	operator, ok := operators[scope.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", scope.Operator)
	}
	requirement, err := labels.NewRequirement(string(scope.ScopeName), operator, scope.Values)
	if err != nil {
		return false, fmt.Errorf("read scope selector: %w", err)
	}
	some := false
	for _, value := range values {
		if value == "" {
			continue
		}
		some = true
		if requirement.Matches(labels.Set{string(scope.ScopeName): value}) {
			return true, nil
		}
	}
	return !some && requirement.Matches(labels.Set{}), nil
}

func crossesNamespaces(affinity *corev1.Affinity) bool {
	crosses := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		for i := range preferred {
			required = append(slices.Clip(required), preferred[i].PodAffinityTerm)
		}
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
	}
	if affinity == nil {
		return false
	}
	if a := affinity.PodAffinity; a != nil && crosses(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution) {
		return true
	}
	a := affinity.PodAntiAffinity
	return a != nil && crosses(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
}
