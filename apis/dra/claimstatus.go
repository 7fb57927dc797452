package dra

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/validate"
)

// deviceID names a device, or a share of it.
type deviceID struct{ Driver, Pool, Device, ShareID string }

func allocatedDevices(c *resourcev1.ResourceClaim) sets.Set[deviceID] {
	devices := sets.New[deviceID]()
	if c.Status.Allocation != nil {
		for _, r := range c.Status.Allocation.Devices.Results {
			devices.Insert(deviceID{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))})
		}
	}
	return devices
}

func statusID(d *resourcev1.AllocatedDeviceStatus) deviceID {
	return deviceID{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
}

// prepareClaimStatus drops what is alpha and not built here, and the status of devices that the claim has lost.
func prepareClaimStatus(c, old *resourcev1.ResourceClaim) {
	if c.Status.Allocation != nil {
		for i := range c.Status.Allocation.Devices.Results {
			c.Status.Allocation.Devices.Results[i].SkipNodeOperations = nil
		}
	}
	lost := allocatedDevices(old).Difference(allocatedDevices(c))
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool { return lost.Has(statusID(&d)) })
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	path := field.NewPath("status")
	errs := claimRules.updateStatus(c, old)
	reserved := path.Child("reservedFor")
	errs = append(errs, each(c.Status.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, reserved, validateConsumer)...)
	allocated := allocatedDevices(c)
	errs = append(errs, each(c.Status.Devices, len(c.Status.Devices), path.Child("devices"), func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
		return validateDeviceStatus(d, allocated, at)
	})...)
	switch {
	case len(c.Status.ReservedFor) > 0 && c.Status.Allocation == nil:
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil && sets.New(c.Status.ReservedFor...).Difference(sets.New(old.Status.ReservedFor...)).Len() > 0:
		errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	if old.Status.Allocation == nil && c.Status.Allocation != nil { // a tag keeps one that is there from changing
		errs = append(errs, validateAllocation(c.Status.Allocation, requestNames(&c.Spec.Devices), path.Child("allocation"))...)
	}
	return errs
}

func validateConsumer(c *resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"resource", c.Resource}, {"name", c.Name}, {"uid", string(c.UID)}} {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	return errs
}

func validateAllocation(a *resourcev1.AllocationResult, names sets.Set[string], path *field.Path) field.ErrorList {
	devices := path.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, devices.Child("results"), func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
		errs := validateRequestName(r.Request, names, at.Child("request"))
		errs = append(errs, validate.DNSLabel(r.Device, at.Child("device"))...)
		errs = append(errs, validateBinding(r.BindingConditions, r.BindingFailureConditions, at)...)
		return append(errs, validateTolerations(r.Tolerations, at)...)
	})
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, devices.Child("config"), func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
		return append(validateRequestNames(c.Requests, names, at.Child("requests")), validateConfiguration(c.DeviceConfiguration, at)...)
	})...)
	if a.NodeSelector != nil {
		errs = append(errs, validate.NodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, allocated sets.Set[deviceID], path *field.Path) field.ErrorList {
	errs := core.ValidateCSIDriverName(d.Driver, path.Child("driver"))
	errs = append(errs, validatePoolName(d.Pool, path.Child("pool"))...)
	errs = append(errs, validate.DNSLabel(d.Device, path.Child("device"))...)
	if id := statusID(d); !allocated.Has(id) {
		errs = append(errs, field.Invalid(path, id, "must be an allocated device in the claim"))
	}
	if len(d.Conditions) > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(path.Child("conditions"), len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metav1validation.ValidateConditions(d.Conditions, path.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateRaw(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	if d.NetworkData != nil {
		errs = append(errs, each(d.NetworkData.IPs, resourcev1.NetworkDeviceDataMaxIPs, path.Child("networkData", "ips"), func(ip *string, at *field.Path) field.ErrorList {
			return validation.IsValidInterfaceAddress(at, *ip)
		})...)
	}
	return errs
}
