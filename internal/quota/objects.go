package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
)

func cast[T runtime.Object](item runtime.Object) (T, error) {
	obj, ok := item.(T)
	if !ok {
		return obj, fmt.Errorf("expected %T, got %T", obj, item)
	}
	return obj, nil
}

func quantity(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

func onMainResource(operation admission.Operation, subresource string) bool {
	return subresource == "" && (operation == admission.Create || operation == admission.Update)
}

func newServices(list Lister) quotav1.Evaluator {
	names := []corev1.ResourceName{"count/services", corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}
	return &evaluator[*corev1.Service]{
		resource: corev1.SchemeGroupVersion.WithResource("services"), list: list,
		handles: onMainResource,
		counts:  func(name corev1.ResourceName) bool { return slices.Contains(names, name) },
		usage:   serviceUsage,
	}
}

func serviceUsage(service *corev1.Service) corev1.ResourceList {
	used := corev1.ResourceList{
		"count/services": quantity(1), corev1.ResourceServices: quantity(1),
		corev1.ResourceServicesNodePorts: quantity(0), corev1.ResourceServicesLoadBalancers: quantity(0),
	}
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		used[corev1.ResourceServicesNodePorts] = quantity(len(service.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		used[corev1.ResourceServicesLoadBalancers] = quantity(1)
		ports := len(service.Spec.Ports)
		if allocate := service.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for _, port := range service.Spec.Ports {
				if port.NodePort != 0 {
					ports++
				}
			}
		}
		used[corev1.ResourceServicesNodePorts] = quantity(ports)
	default: // takes neither
	}
	return used
}

// Names of the form <class>.storageclass.storage.k8s.io/... limit the claims of one storage class.
const (
	countClaims      = corev1.ResourceName("count/persistentvolumeclaims")
	ofStorageClass   = ".storageclass.storage.k8s.io/"
	ofDeviceClass    = ".deviceclass.resource.k8s.io/devices"
	countDeviceClaim = corev1.ResourceName("count/resourceclaims.resource.k8s.io")
)

func newClaims(list Lister) quotav1.Evaluator {
	names := []corev1.ResourceName{countClaims, corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
	return &evaluator[*corev1.PersistentVolumeClaim]{
		resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), list: list,
		handles: onMainResource,
		counts: func(name corev1.ResourceName) bool {
			s := string(name)
			return slices.Contains(names, name) || strings.HasSuffix(s, ofStorageClass+string(corev1.ResourceRequestsStorage)) ||
				strings.HasSuffix(s, ofStorageClass+string(corev1.ResourcePersistentVolumeClaims))
		},
		moves: func(subresource string, claim, old *corev1.PersistentVolumeClaim) bool {
			return subresource == "status" && (claim.Status.AllocatedResources.Storage().Cmp(*old.Status.AllocatedResources.Storage()) != 0 ||
				!sets.New(attributeClasses(claim)...).Equal(sets.New(attributeClasses(old)...)))
		},
		usage:   claimUsage,
		inScope: claimInScope,
	}
}

func claimUsage(claim *corev1.PersistentVolumeClaim) corev1.ResourceList {
	used := corev1.ResourceList{countClaims: quantity(1), corev1.ResourcePersistentVolumeClaims: quantity(1)}
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	ofClass := func(name corev1.ResourceName) corev1.ResourceName {
		return corev1.ResourceName(class + ofStorageClass + string(name))
	}
	if class != "" {
		used[ofClass(corev1.ResourcePersistentVolumeClaims)] = quantity(1)
	}
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return used
	}
	// A claim that was shrunk back after a failed expansion still holds what was allocated.
	if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(size) > 0 {
		size = allocated
	}
	// Binary and decimal units of several claims add up to one figure, so it is kept in whole bytes.
	size = *resource.NewQuantity(size.Value(), size.Format)
	used[corev1.ResourceRequestsStorage] = size
	if class != "" {
		used[ofClass(corev1.ResourceRequestsStorage)] = size
	}
	return used
}

func claimInScope(scope corev1.ScopedResourceSelectorRequirement, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	return selects(scope, attributeClasses(claim)...)
}

// attributeClasses are the classes that a claim has, is to have or is on the way to.
func attributeClasses(claim *corev1.PersistentVolumeClaim) []string {
	var classes []string
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil {
			classes = append(classes, *name)
		}
	}
	if modify := claim.Status.ModifyVolumeStatus; modify != nil {
		classes = append(classes, modify.TargetVolumeAttributesClassName)
	}
	return classes
}

func newResourceClaims(list Lister, d Devices) quotav1.Evaluator {
	return &evaluator[*resourcev1.ResourceClaim]{
		resource: resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), list: list,
		handles: func(operation admission.Operation, subresource string) bool {
			return operation == admission.Create && subresource == ""
		},
		counts: func(name corev1.ResourceName) bool {
			return name == countDeviceClaim || strings.HasSuffix(string(name), ofDeviceClass) || d.counts(name)
		},
		usage: func(claim *resourcev1.ResourceClaim) corev1.ResourceList {
			used := resourceClaimUsage(claim)
			d.charge(claim, used)
			return used
		},
	}
}

// resourceClaimUsage counts the devices that a claim may get at most, by device class. Of alternatives the dearest counts.
func resourceClaimUsage(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	used := corev1.ResourceList{countDeviceClaim: quantity(1)}
	add := func(devices map[string]int64) {
		for class, n := range devices {
			name := corev1.ResourceName(class + ofDeviceClass)
			sum := used[name]
			sum.Add(*resource.NewQuantity(n, resource.DecimalSI))
			used[name] = sum
		}
	}
	for _, request := range claim.Spec.Devices.Requests {
		switch {
		case request.Exactly != nil:
			add(map[string]int64{request.Exactly.DeviceClassName: devices(request.Exactly.AllocationMode, request.Exactly.Count)})
		case len(request.FirstAvailable) > 0:
			most := map[string]int64{}
			for _, sub := range request.FirstAvailable {
				most[sub.DeviceClassName] = max(most[sub.DeviceClassName], devices(sub.AllocationMode, sub.Count))
			}
			add(most)
		}
	}
	return used
}

func devices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}
