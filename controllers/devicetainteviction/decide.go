package devicetainteviction

import (
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	draclaim "k8s.io/dynamic-resource-allocation/resourceclaim"
)

// evictAt returns when the user of allocated claims has to leave because of taints; false if it may stay. The time that a toleration
// allows runs from when the taint was added.
func evictAt(claims []*resourcev1.ResourceClaim, inSlices []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule, now time.Time) (time.Time, bool) {
	var first time.Time
	evict := false
	for _, claim := range claims {
		for i := range claim.Status.Allocation.Devices.Results {
			device := &claim.Status.Allocation.Devices.Results[i]
			for _, taint := range taintsOf(device, inSlices, rules) {
				at, leaves := leaveAt(device.Tolerations, taint, now)
				if leaves && (!evict || at.Before(first)) {
					first, evict = at, true
				}
			}
		}
	}
	return first, evict
}

// leaveAt returns when a taint takes effect; false if it is tolerated for ever. Of several tolerations the shortest counts, unless one
// has no end.
func leaveAt(tolerations []resourcev1.DeviceToleration, taint *resourcev1.DeviceTaint, now time.Time) (time.Time, bool) {
	at := now
	if taint.TimeAdded != nil {
		at = taint.TimeAdded.Time
	}
	var least *int64
	for _, toleration := range tolerations {
		if toleration.Effect != resourcev1.DeviceTaintEffectNoExecute || !draclaim.ToleratesTaint(toleration, *taint) {
			continue
		}
		if toleration.TolerationSeconds == nil {
			return time.Time{}, false
		}
		if seconds := max(*toleration.TolerationSeconds, 0); least == nil || seconds < *least {
			least = &seconds
		}
	}
	if least != nil {
		at = at.Add(time.Duration(*least) * time.Second)
	}
	return at, true
}

// taintsOf returns the NoExecute taints of an allocated device.
func taintsOf(device *resourcev1.DeviceRequestAllocationResult, inSlices []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) []*resourcev1.DeviceTaint {
	var taints []*resourcev1.DeviceTaint
	for _, found := range current(device, inSlices) {
		for i := range found.Taints {
			if found.Taints[i].Effect == resourcev1.DeviceTaintEffectNoExecute {
				taints = append(taints, &found.Taints[i])
			}
		}
	}
	for _, rule := range rules {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute && selects(rule.Spec.DeviceSelector, device) {
			taints = append(taints, &rule.Spec.Taint)
		}
	}
	return taints
}

// current returns the device as the newest generation of its pool describes it, if that does.
func current(device *resourcev1.DeviceRequestAllocationResult, inSlices []*resourcev1.ResourceSlice) []*resourcev1.Device {
	var found []*resourcev1.Device
	generation := newest(device, inSlices)
	for _, slice := range inSlices {
		if !holds(slice, device) || slice.Spec.Pool.Generation < generation {
			continue
		}
		if i := slices.IndexFunc(slice.Spec.Devices, func(d resourcev1.Device) bool { return d.Name == device.Device }); i >= 0 {
			found = append(found, &slice.Spec.Devices[i])
		}
	}
	return found
}

// newest is the newest generation of a device's pool; -1 if there is none.
func newest(device *resourcev1.DeviceRequestAllocationResult, inSlices []*resourcev1.ResourceSlice) int64 {
	generation := int64(-1)
	for _, slice := range inSlices {
		if holds(slice, device) {
			generation = max(generation, slice.Spec.Pool.Generation)
		}
	}
	return generation
}

func holds(slice *resourcev1.ResourceSlice, device *resourcev1.DeviceRequestAllocationResult) bool {
	return slice.Spec.Driver == device.Driver && slice.Spec.Pool.Name == device.Pool
}

// selects reports whether a rule is about a device. A rule without a selector is about none.
func selects(selector *resourcev1.DeviceTaintSelector, device *resourcev1.DeviceRequestAllocationResult) bool {
	is := func(wanted *string, have string) bool { return wanted == nil || *wanted == have }
	return selector != nil && is(selector.Driver, device.Driver) && is(selector.Pool, device.Pool) && is(selector.Device, device.Device)
}

func tainted(slice *resourcev1.ResourceSlice) bool {
	return slices.ContainsFunc(slice.Spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 })
}
