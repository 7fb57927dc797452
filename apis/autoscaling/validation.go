package autoscaling

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// validateAutoscaler leaves a reference alone whose stored version is as bad; old is nil on create.
func validateAutoscaler(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	spec, path := &h.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if spec.MinReplicas != nil && *spec.MinReplicas < 0 {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *spec.MinReplicas, "must be greater than or equal to 0"))
	}
	if spec.MinReplicas != nil && *spec.MinReplicas == 0 && !slices.ContainsFunc(spec.Metrics, countsWithoutPods) {
		errs = append(errs, field.Forbidden(path.Child("metrics"),
			"must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	switch {
	case spec.MaxReplicas == 0:
		errs = append(errs, field.Required(path.Child("maxReplicas"), ""))
	case spec.MaxReplicas < 0:
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to 1"))
	}
	if spec.MinReplicas != nil && spec.MaxReplicas < *spec.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(spec.ScaleTargetRef, path.Child("scaleTargetRef"))...)
	if old == nil || groupOf(old.Spec.ScaleTargetRef) == nil {
		if err := groupOf(spec.ScaleTargetRef); err != nil {
			errs = append(errs, field.Invalid(path.Child("scaleTargetRef", "apiVersion"), spec.ScaleTargetRef.APIVersion, err.Error()))
		}
	}
	for i := range spec.Metrics {
		errs = append(errs, validateMetric(&spec.Metrics[i], path.Child("metrics").Index(i))...)
	}
	if spec.Behavior != nil {
		errs = append(errs, validateScalingRules(spec.Behavior.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateScalingRules(spec.Behavior.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// countsWithoutPods tells whether the metric still has a value when no pod runs.
func countsWithoutPods(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
}

func validateAutoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	for i, c := range h.Status.Conditions {
		errs = append(errs, validate.NonnegativePtr(c.ObservedGeneration, path.Child("conditions").Index(i).Child("observedGeneration"))...)
	}
	errs = append(errs, validate.Nonnegative(h.Status.CurrentReplicas, path.Child("currentReplicas"))...)
	return append(errs, validate.Nonnegative(h.Status.DesiredReplicas, path.Child("desiredReplicas"))...)
}

// groupOf finds what is wrong with the version of what is to be scaled: it must name a group.
func groupOf(ref autoscalingv2.CrossVersionObjectReference) error {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil && gv.Group == "" {
		err = errors.New("apiVersion must specify API group")
	}
	return err
}

func validateReference(ref autoscalingv2.CrossVersionObjectReference, path *field.Path) field.ErrorList {
	return append(validateSegment(ref.Kind, "", path.Child("kind")), validateSegment(ref.Name, "", path.Child("name"))...)
}

func validateSegment(value, required string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, required)}
	}
	return validate.Messages(path, value, content.IsPathSegmentName(value))
}

// validateMetric demands exactly the source that the type names.
func validateMetric(m *autoscalingv2.MetricSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	errs = append(errs, validate.OneOf(m.Type, path.Child("type"),
		autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
		autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)...)
	var present, foreign []string
	for _, source := range []struct {
		kind  autoscalingv2.MetricSourceType
		name  string
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList {
			errs := validateReference(m.Object.DescribedObject, p.Child("describedObject"))
			if _, err := schema.ParseGroupVersion(m.Object.DescribedObject.APIVersion); err != nil {
				errs = append(errs, field.Invalid(p.Child("describedObject", "apiVersion"), m.Object.DescribedObject.APIVersion, err.Error()))
			}
			errs = append(errs, validateIdentifier(m.Object.Metric, p.Child("metric"))...)
			return append(errs, validateValueTarget(m.Object.Target, "must set either a target value or averageValue", p)...)
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList {
			t := m.External.Target
			errs := append(validateIdentifier(m.External.Metric, p.Child("metric")), validateValueTarget(t, "must set either a target value for metric or a per-pod target", p)...)
			if t.Value != nil && t.AverageValue != nil {
				errs = append(errs, field.Forbidden(p.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
			}
			return errs
		}},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList {
			errs := append(validateIdentifier(m.Pods.Metric, p.Child("metric")), validateTarget(m.Pods.Target, p.Child("target"))...)
			if m.Pods.Target.AverageValue == nil {
				errs = append(errs, field.Required(p.Child("target", "averageValue"), "must specify a positive target averageValue"))
			}
			return errs
		}},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return validateResourceTarget(m.Resource.Name, m.Resource.Target, p)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			errs := validateResourceTarget(m.ContainerResource.Name, m.ContainerResource.Target, p)
			if m.ContainerResource.Name != "" {
				errs = append(errs, validate.ContainerResourceName(m.ContainerResource.Name, p.Child("name"))...)
			}
			if m.ContainerResource.Container == "" {
				return append(errs, field.Required(p.Child("container"), "must specify a container"))
			}
			return append(errs, validate.DNSLabel(m.ContainerResource.Container, p.Child("container"))...)
		}},
	} {
		sourcePath := path.Child(source.name)
		switch {
		case source.set:
			if present = append(present, source.name); len(present) == 1 {
				errs = append(errs, source.check(sourcePath)...)
			}
			if source.kind != m.Type {
				foreign = append(foreign, source.name)
			}
		case source.kind == m.Type:
			errs = append(errs, field.Required(sourcePath, "must populate information for the given metric source"))
		}
	}
	if len(present) > 1 {
		for _, name := range foreign {
			errs = append(errs, field.Forbidden(path.Child(name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateIdentifier(id autoscalingv2.MetricIdentifier, path *field.Path) field.ErrorList {
	return validateSegment(id.Name, "must specify a metric name", path.Child("name"))
}

// validateTarget checks a target on its own; which of its values a source needs is the source's affair.
func validateTarget(t autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	if t.Type != autoscalingv2.UtilizationMetricType && t.Type != autoscalingv2.ValueMetricType && t.Type != autoscalingv2.AverageValueMetricType {
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	for _, amount := range []struct {
		name  string
		value *apiresource.Quantity
	}{{"value", t.Value}, {"averageValue", t.AverageValue}} {
		if amount.value != nil && amount.value.Sign() != 1 {
			errs = append(errs, field.Invalid(path.Child(amount.name), amount.value.String(), "must be positive"))
		}
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

// validateValueTarget is for metrics of which a value or an average may be wanted.
func validateValueTarget(t autoscalingv2.MetricTarget, required string, path *field.Path) field.ErrorList {
	errs := validateTarget(t, path.Child("target"))
	if t.Value == nil && t.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), required))
	}
	return errs
}

func validateResourceTarget(name corev1.ResourceName, t autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateTarget(t, path.Child("target"))...)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("target", "averageUtilization"),
			"must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

const (
	maxPeriodSeconds = 1800
	maxWindowSeconds = 3600
)

func validateScalingRules(rules *autoscalingv2.HPAScalingRules, path *field.Path) field.ErrorList {
	if rules == nil {
		return nil
	}
	var errs field.ErrorList
	if window := rules.StabilizationWindowSeconds; window != nil && *window < 0 {
		errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, "must be greater than or equal to zero"))
	} else if window != nil && *window > maxWindowSeconds {
		errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window,
			fmt.Sprintf("must be less than or equal to %v", maxWindowSeconds)))
	}
	errs = append(errs, validate.OptionalOneOf(rules.SelectPolicy, path.Child("selectPolicy"), autoscalingv2.DisabledPolicySelect,
		autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	if rules.Tolerance != nil {
		errs = append(errs, validate.NonnegativeQuantity(*rules.Tolerance, path.Child("tolerance"))...)
	}
	if len(rules.Policies) == 0 {
		return append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	for i, policy := range rules.Policies {
		policyPath := path.Child("policies").Index(i)
		errs = append(errs, validate.OneOf(policy.Type, policyPath.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if policy.Value <= 0 {
			errs = append(errs, field.Invalid(policyPath.Child("value"), policy.Value, "must be greater than zero"))
		}
		if policy.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(policyPath.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero"))
		} else if policy.PeriodSeconds > maxPeriodSeconds {
			errs = append(errs, field.Invalid(policyPath.Child("periodSeconds"), policy.PeriodSeconds,
				fmt.Sprintf("must be less than or equal to %v", maxPeriodSeconds)))
		}
	}
	return errs
}
