package dra

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/validate"
)

const (
	maxValidValues = 10 // of a capacity, as the API documents
	slicePlaces    = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	devicePlaces   = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
)

// validateSlice checks what tags cannot. What the old slice has already of a device's capacity and taints is left alone.
func validateSlice(s, old *resourcev1.ResourceSlice) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := core.ValidateCSIDriverName(spec.Driver, path.Child("driver"))
	errs = append(errs, validatePool(&spec.Pool, path.Child("pool"))...)
	set, more := place{spec.NodeName, spec.NodeSelector, spec.AllNodes}.validate("must be either unset or set to a non-empty string", path)
	errs = append(errs, more...)
	if spec.NodeSelector != nil && len(spec.NodeSelector.NodeSelectorTerms) != 1 {
		errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), spec.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	perDevice, more := onlyTrue(spec.PerDeviceNodeSelection, path.Child("perDeviceNodeSelection"))
	if errs = append(errs, more...); perDevice {
		set = append(set, "`perDeviceNodeSelection`")
	}
	errs = append(errs, exactlyOne(set, slicePlaces, slicePlaces+", but multiple fields are set", path)...)
	if spec.SharedCounters != nil && spec.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	errs = append(errs, each(spec.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"), func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
		return atMost(len(c.Counters), resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))
	})...)
	return append(errs, validateDevices(spec, &old.Spec, perDevice, path.Child("devices"))...)
}

func validateDevices(spec, old *resourcev1.ResourceSliceSpec, perDevice bool, path *field.Path) field.ErrorList {
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	if errs := atMost(len(spec.Devices), most, path); errs != nil {
		return errs
	}
	former := map[string]*resourcev1.Device{}
	for i := range old.Devices {
		former[old.Devices[i].Name] = &old.Devices[i]
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range spec.Devices {
		d, at := &spec.Devices[i], path.Index(i)
		errs = append(errs, validateDevice(d, former[d.Name], perDevice, at)...)
		if names.Has(d.Name) {
			errs = append(errs, field.Duplicate(at, d.Name))
		}
		names.Insert(d.Name)
	}
	return errs
}

// atMost reports a list that is too long.
func atMost(n, most int, path *field.Path) field.ErrorList {
	if n > most {
		return field.ErrorList{field.TooMany(path, n, most)}
	}
	return nil
}

func validatePool(pool *resourcev1.ResourcePool, path *field.Path) field.ErrorList {
	errs := validatePoolName(pool.Name, path.Child("name"))
	if pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("resourceSliceCount"), pool.ResourceSliceCount, "must be greater than zero"))
	}
	if pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("generation"), pool.Generation, "must be greater than or equal to zero"))
	}
	return errs
}

func validateDevice(d, old *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	errs := validate.DNSLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	if n := len(d.Attributes); n > resourcev1.ResourceSliceMaxAttributeValuesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attribute values must not exceed %d", resourcev1.ResourceSliceMaxAttributeValuesPerDevice)))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		attribute, at := d.Attributes[name], path.Child("attributes")
		errs = append(errs, validateQualifiedName(name, at)...)
		errs = append(errs, validateAttribute(&attribute, at.Key(shorten(string(name))))...)
	}
	if old == nil || !validate.Equal(old.Capacity, d.Capacity) {
		for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
			capacity, at := d.Capacity[name], path.Child("capacity")
			errs = append(errs, validateQualifiedName(name, at)...)
			errs = append(errs, validateCapacity(&capacity, ptr.Deref(d.AllowMultipleAllocations, false), at.Key(shorten(string(name))).Child("requestPolicy"))...)
		}
	}
	if old == nil || !validate.Equal(old.Taints, d.Taints) {
		errs = append(errs, atMost(len(d.Taints), resourcev1.DeviceTaintsMaxLength, path.Child("taints"))...)
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), validateTaint)...)
	}
	errs = append(errs, each(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"), func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
		return atMost(len(c.Counters), resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))
	})...)
	switch own := (place{d.NodeName, d.NodeSelector, d.AllNodes}); {
	case perDevice:
		set, more := own.validate("must not be empty", path)
		errs = append(append(errs, more...), exactlyOne(set, devicePlaces, devicePlaces, path)...)
	case own != place{}:
		errs = append(errs, field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	}
	return append(errs, validateBinding(d.BindingConditions, d.BindingFailureConditions, path)...)
}

// semanticVersion is the grammar of semver.org 2.0.0.
var semanticVersion = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func validateAttribute(a *resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, value := range map[string]*string{"string": a.StringValue, "version": a.VersionValue} {
		if value == nil {
			continue
		}
		if name == "version" && !semanticVersion.MatchString(*value) {
			errs = append(errs, field.Invalid(path.Child(name), *value, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*value) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path.Child(name), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	return errs
}

// shorten cuts the middle out of a key that is too long to be shown.
func shorten(key string) string {
	const most, dots = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength, "..."
	if len(key) <= most {
		return key
	}
	left := most - len(dots)
	return key[:(left+1)/2] + dots + key[len(key)-left/2:]
}

// validateQualifiedName checks identifier or domain/identifier.
func validateQualifiedName(name resourcev1.QualifiedName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	parts := strings.Split(string(name), "/")
	if len(parts) > 2 {
		return nil // upstream does not look at these
	}
	id := parts[len(parts)-1]
	if len(parts) == 2 {
		if parts[0] == "" {
			errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
		} else {
			errs = append(errs, core.ValidateCSIDriverName(parts[0], path)...)
		}
		if id == "" {
			return append(errs, field.Invalid(path, "", "the name must not be empty"))
		}
	}
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, validate.Messages(path, id, content.IsCIdentifier(id))...)
}

// validateCapacity checks the policy by which requests share a capacity.
func validateCapacity(c *resourcev1.DeviceCapacity, shared bool, path *field.Path) field.ErrorList {
	policy := c.RequestPolicy
	switch {
	case policy == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(path, "allowMultipleAllocations must be true")}
	case len(policy.ValidValues) > 0 && policy.ValidRange != nil:
		return field.ErrorList{field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(policy.ValidValues) > 0 && policy.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validValues is defined")}
	case len(policy.ValidValues) > 0:
		return validateValues(policy.ValidValues, *policy.Default, c.Value, path.Child("validValues"))
	case policy.ValidRange != nil && policy.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validRange is defined")}
	case policy.ValidRange != nil:
		return validateRange(policy.ValidRange, *policy.Default, c.Value, path.Child("validRange"))
	}
	return nil
}

func validateValues(values []resource.Quantity, preset, capacity resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	found := false
	if more := atMost(len(values), maxValidValues, path); more != nil {
		errs = append(errs, more...)
	} else {
		seen := sets.New[int64]()
		for i, value := range values {
			if value.Cmp(capacity) > 0 {
				errs = append(errs, field.Invalid(path.Index(i), value.String(), "option is larger than capacity value: "+capacity.String()))
			}
			if seen.Has(value.Value()) {
				errs = append(errs, field.Duplicate(path.Index(i), fmt.Sprint(value.Value())))
			}
			seen.Insert(value.Value())
			found = found || value.Cmp(preset) == 0
		}
	}
	if !found {
		errs = append(errs, field.Invalid(path, preset.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validateRange(r *resourcev1.CapacityRequestPolicyRange, preset, capacity resource.Quantity, path *field.Path) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	check := func(bad bool, name string, value resource.Quantity, message string, other resource.Quantity) {
		if bad {
			errs = append(errs, field.Invalid(path.Child(name), value.String(), message+": "+other.String()))
		}
	}
	check(r.Min.Cmp(capacity) > 0, "min", *r.Min, "min is larger than capacity value", capacity)
	check(preset.Cmp(*r.Min) < 0, "default", preset, "default is less than min", *r.Min)
	if r.Max != nil {
		check(r.Min.Cmp(*r.Max) > 0, "max", *r.Min, "min is larger than max", *r.Max)
		check(r.Max.Cmp(capacity) > 0, "max", *r.Max, "max is larger than capacity value", capacity)
		check(preset.Cmp(*r.Max) > 0, "default", preset, "default is more than max", *r.Max)
	}
	if r.Step == nil {
		return errs
	}
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(path.Child("step"), r.Step.String(), "must be greater than zero"))
	}
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	check(first.Cmp(capacity) > 0, "step", *r.Step, fmt.Sprintf("one step %s is larger than capacity value", first.String()), capacity)
	return append(errs, validateSteps(r, preset, path)...)
}

// validateSteps checks that the default and the greatest value are whole steps above the least. They are compared as integers.
func validateSteps(r *resourcev1.CapacityRequestPolicyRange, preset resource.Quantity, path *field.Path) field.ErrorList {
	const maxInt64 = 1<<63 - 1
	var errs field.ErrorList
	for _, q := range []struct {
		name  string
		value *resource.Quantity
	}{{"default", &preset}, {"min", r.Min}, {"max", r.Max}, {"step", r.Step}} {
		switch {
		case q.value == nil:
		case q.value.Sign() < 0:
			errs = append(errs, field.Invalid(path.Child(q.name), q.value.String(), "must be greater than or equal to 0"))
		case q.value.CmpInt64(maxInt64) > 0:
			errs = append(errs, field.Invalid(path.Child(q.name), q.value.String(), "must not be larger than 9223372036854775807"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	for _, value := range []*resource.Quantity{&preset, r.Max} {
		if value != nil && (value.Value()-r.Min.Value())%r.Step.Value() != 0 {
			errs = append(errs, field.Invalid(path.Child("step"), value.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step, r.Min)))
		}
	}
	return errs
}
