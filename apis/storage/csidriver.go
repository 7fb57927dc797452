package storage

import (
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// csiDriver tells how a volume driver wants to be used.
var csiDriver = resource.Definition[*storagev1.CSIDriver]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "CSIDriver", NameOnce: true, Plural: "csidrivers", ReturnDeleted: true,
	GenerationOf: func(d *storagev1.CSIDriver) any { return &d.Spec }, LateGeneration: true,
	Default: func(d *storagev1.CSIDriver) {
		spec := &d.Spec
		resource.SetDefaultPtr(&spec.AttachRequired, true)
		resource.SetDefaultPtr(&spec.PodInfoOnMount, false)
		resource.SetDefaultPtr(&spec.StorageCapacity, false)
		resource.SetDefaultPtr(&spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		if len(spec.VolumeLifecycleModes) == 0 {
			spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
		resource.SetDefaultPtr(&spec.RequiresRepublish, false)
		resource.SetDefaultPtr(&spec.SELinuxMount, false)
		resource.SetDefaultPtr(&spec.PreventPodSchedulingIfMissing, false)
	},
	Warn: func(d, old *storagev1.CSIDriver) []string {
		if old != nil || len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
			return nil
		}
		return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
	},
	Validate: validateCSIDriver,
	ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
		path := field.NewPath("spec")
		errs := validate.Immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))
		errs = append(errs, validate.Immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
		return append(errs, validateCSIDriver(d)...)
	},
	Columns: resource.Columns([]resource.Column[*storagev1.CSIDriver]{
		{Name: "AttachRequired", Type: "boolean", Description: driverDoc("attachRequired"), Get: func(d *storagev1.CSIDriver) any {
			return ptr.Deref(d.Spec.AttachRequired, true)
		}},
		{Name: "PodInfoOnMount", Type: "boolean", Description: driverDoc("podInfoOnMount"), Get: func(d *storagev1.CSIDriver) any {
			return ptr.Deref(d.Spec.PodInfoOnMount, false)
		}},
		{Name: "StorageCapacity", Type: "boolean", Description: driverDoc("storageCapacity"), Get: func(d *storagev1.CSIDriver) any {
			return ptr.Deref(d.Spec.StorageCapacity, false)
		}},
		{Name: "TokenRequests", Description: driverDoc("tokenRequests"), Get: func(d *storagev1.CSIDriver) any {
			var audiences []string
			for _, request := range d.Spec.TokenRequests {
				audiences = append(audiences, request.Audience)
			}
			if len(audiences) == 0 {
				return "<unset>"
			}
			return strings.Join(audiences, ",")
		}},
		{Name: "RequiresRepublish", Type: "boolean", Description: driverDoc("requiresRepublish"), Get: func(d *storagev1.CSIDriver) any {
			return ptr.Deref(d.Spec.RequiresRepublish, false)
		}},
		{Name: "Modes", Description: driverDoc("volumeLifecycleModes"), Get: func(d *storagev1.CSIDriver) any {
			var modes []string
			for _, mode := range d.Spec.VolumeLifecycleModes {
				modes = append(modes, string(mode))
			}
			return resource.OrNone(modes)
		}},
	}...),
}

func driverDoc(name string) string { return storagev1.CSIDriverSpec{}.SwaggerDoc()[name] }

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	var errs field.ErrorList
	for _, required := range []struct {
		name  string
		value *bool
	}{{"attachedRequired", spec.AttachRequired}, {"podInfoOnMount", spec.PodInfoOnMount}, {"storageCapacity", spec.StorageCapacity}} {
		if required.value == nil {
			errs = append(errs, field.Required(path.Child(required.name), ""))
		}
	}
	if spec.FSGroupPolicy == nil {
		errs = append(errs, field.Required(path.Child("fsGroupPolicy"), ""))
	} else {
		errs = append(errs, validate.OneOf(*spec.FSGroupPolicy, path.Child("fsGroupPolicy"),
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	audiences := sets.New[string]()
	for i, request := range spec.TokenRequests {
		tokenPath := path.Child("tokenRequests").Index(i)
		if audiences.Has(request.Audience) {
			errs = append(errs, field.Duplicate(tokenPath.Child("audience"), request.Audience))
		}
		audiences.Insert(request.Audience)
		errs = append(errs, validateTokenLife(request.ExpirationSeconds, tokenPath.Child("expirationSeconds"))...)
	}
	if s := spec.NodeAllocatableUpdatePeriodSeconds; s != nil && *s < 10 {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *s, "must be greater than or equal to 10 seconds"))
	}
	if in := spec.ServiceAccountTokenInSecrets; in != nil && *in && len(spec.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), *in, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}
	for _, mode := range spec.VolumeLifecycleModes {
		if !slices.Contains(modes, mode) {
			errs = append(errs, field.NotSupported(path.Child("volumeLifecycleModes"), mode, modes))
		}
	}
	return errs
}

func validateTokenLife(seconds *int64, path *field.Path) field.ErrorList {
	const shortest, longest = 10 * 60, 1 << 32
	switch {
	case seconds == nil:
	case *seconds < shortest:
		return field.ErrorList{field.Invalid(path, *seconds, "may not specify a duration less than 10 minutes")}
	case *seconds > longest:
		return field.ErrorList{field.Invalid(path, *seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}
