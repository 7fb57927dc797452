package noderesources

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

// celCacheSize bounds the compiled selectors of the device classes that stand for resources; few do.
const celCacheSize = 10

// offer counts the devices that stand for an extended resource on a node (KEP-5004), and those of them that are taken.
type offer func(name corev1.ResourceName, node *corev1.Node) (all, taken int64)

// offer returns what devices there are now; nil if no device class stands for one of the resources that are scored.
func (s *scorer) offer(ctx context.Context) (offer, error) {
	if s.dra == nil || !slices.ContainsFunc(s.resources, func(r configv1.ResourceSpec) bool {
		return scalar(corev1.ResourceName(r.Name)) && s.classOf(corev1.ResourceName(r.Name)) != nil
	}) {
		return nil, nil
	}
	taken, err := s.dra.ResourceClaims().GatherAllocatedState()
	if err != nil {
		return nil, err
	}
	list, err := s.dra.ResourceSlices().ListWithDeviceTaintRules()
	if err != nil {
		return nil, fmt.Errorf("list resource slices: %w", err)
	}
	byNode := map[string][]*resourceapi.ResourceSlice{} // "": those that say otherwise where their devices are
	for _, slice := range list {
		name := ptr.Deref(slice.Spec.NodeName, "")
		byNode[name] = append(byNode[name], slice)
	}
	return func(name corev1.ResourceName, node *corev1.Node) (all, used int64) {
		class := s.classOf(name)
		if class == nil {
			return 0, 0
		}
		for _, of := range []string{node.Name, ""} {
			for _, slice := range byNode[of] {
				a, u, err := s.countDevices(ctx, slice, class, node, taken)
				if err != nil { // as if there were none, so that the pod gets a node
					klog.FromContext(ctx).Error(err, "Count devices", "node", node.Name, "deviceClass", class.Name)
					return 0, 0
				}
				all, used = all+a, used+u
			}
		}
		return all, used
	}, nil
}

func (s *scorer) classOf(name corev1.ResourceName) *resourceapi.DeviceClass {
	return s.dra.DeviceClassResolver().GetDeviceClass(name)
}

// countDevices counts the devices of a slice that are of the class and reach the node.
func (s *scorer) countDevices(ctx context.Context, slice *resourceapi.ResourceSlice, class *resourceapi.DeviceClass, node *corev1.Node, taken *structured.AllocatedState,
) (all, used int64, err error) {
	reaches := func(name *string, everywhere *bool, selector *corev1.NodeSelector) (bool, error) {
		return structured.NodeMatches(structured.Features{}, node, ptr.Deref(name, ""), ptr.Deref(everywhere, false), selector)
	}
	each := ptr.Deref(slice.Spec.PerDeviceNodeSelection, false)
	if !each {
		if ok, err := reaches(slice.Spec.NodeName, slice.Spec.AllNodes, slice.Spec.NodeSelector); !ok {
			return 0, 0, err
		}
	}
	for i := range slice.Spec.Devices {
		d, ok := &slice.Spec.Devices[i], true
		if each {
			ok, err = reaches(d.NodeName, d.AllNodes, d.NodeSelector)
		}
		if ok {
			ok, err = s.isOf(ctx, class, slice.Spec.Driver, d)
		}
		if err != nil {
			return 0, 0, err
		}
		if !ok {
			continue
		}
		all++
		if structured.IsDeviceAllocated(structured.MakeDeviceID(slice.Spec.Driver, slice.Spec.Pool.Name, d.Name), taken) {
			used++
		}
	}
	return all, used, nil
}

// isOf says whether all selectors of the class take the device.
func (s *scorer) isOf(ctx context.Context, class *resourceapi.DeviceClass, driver string, d *resourceapi.Device) (bool, error) {
	for _, selector := range class.Spec.Selectors {
		if selector.CEL == nil {
			continue
		}
		compiled := s.cel.GetOrCompile(selector.CEL.Expression)
		if compiled.Error != nil {
			return false, compiled.Error
		}
		ok, _, err := compiled.DeviceMatches(ctx, cel.Device{Driver: driver, Attributes: d.Attributes, Capacity: d.Capacity})
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
