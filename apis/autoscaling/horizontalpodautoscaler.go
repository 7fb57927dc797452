package autoscaling

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
)

// horizontalPodAutoscaler scales a workload by metrics.
var horizontalPodAutoscaler = resource.Definition[*autoscalingv2.HorizontalPodAutoscaler]{
	GroupVersion: autoscalingv2.SchemeGroupVersion, Served: []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
	Kind: "HorizontalPodAutoscaler", NameOnce: true, Plural: "horizontalpodautoscalers", ShortNames: []string{"hpa"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Default:        defaultAutoscaler,
	Validate:       func(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateAutoscaler(h, nil) },
	ValidateUpdate: validateAutoscaler, ValidateStatus: validateAutoscalerStatus,
	Columns: resource.Columns([]resource.Column[*autoscalingv2.HorizontalPodAutoscaler]{
		{Name: "Reference", Description: doc("scaleTargetRef"), Get: func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
		}},
		{Name: "Targets", Description: doc("metrics"), Get: func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return printMetrics(h.Spec.Metrics, h.Status.CurrentMetrics)
		}},
		{Name: "MinPods", Description: doc("minReplicas"), Get: func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			if h.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return strconv.Itoa(int(*h.Spec.MinReplicas))
		}},
		{Name: "MaxPods", Description: doc("maxReplicas"), Get: func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return int64(h.Spec.MaxReplicas)
		}},
		{Name: "Replicas", Description: autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"], Get: func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return int64(h.Status.CurrentReplicas)
		}},
	}...),
}

func doc(name string) string { return autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()[name] }

const defaultCPUPercent = 80

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	resource.SetDefaultPtr(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(ptr.To[int32](defaultCPUPercent))}
	}
	if h.Spec.Behavior == nil {
		return
	}
	h.Spec.Behavior.ScaleUp = mergeRules(h.Spec.Behavior.ScaleUp, autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: ptr.To[int32](0),
		Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
		},
	})
	h.Spec.Behavior.ScaleDown = mergeRules(h.Spec.Behavior.ScaleDown, autoscalingv2.HPAScalingRules{
		Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
	})
}

// mergeRules fills what rules leave open. The window of scaling down stays open: it is a setting of the controller.
func mergeRules(rules *autoscalingv2.HPAScalingRules, defaults autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	defaults.SelectPolicy = new(autoscalingv2.MaxChangePolicySelect)
	if rules == nil {
		return &defaults
	}
	if rules.SelectPolicy == nil {
		rules.SelectPolicy = defaults.SelectPolicy
	}
	if rules.StabilizationWindowSeconds == nil {
		rules.StabilizationWindowSeconds = defaults.StabilizationWindowSeconds
	}
	if rules.Policies == nil {
		rules.Policies = defaults.Policies
	}
	return rules
}

const (
	shownMetrics = 2
	unknown      = "<unknown>"
)

func printMetrics(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return "<none>"
	}
	var printed []string
	for i := range specs {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		printed = append(printed, printMetric(&specs[i], &status))
	}
	if more := len(printed) - shownMetrics; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(printed[:shownMetrics], ", "), more)
	}
	return strings.Join(printed, ", ")
}

func printMetric(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var current autoscalingv2.MetricValueStatus
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		if status.External != nil {
			current = status.External.Current
		}
		return printAverageOrValue(spec.External.Target, current)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		if status.Object != nil {
			current = status.Object.Current
		}
		return printAverageOrValue(spec.Object.Target, current)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		if status.Pods != nil {
			current = status.Pods.Current
		}
		return printQuantity(current.AverageValue) + "/" + printQuantity(spec.Pods.Target.AverageValue)
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		if status.Resource != nil {
			current = status.Resource.Current
		}
		return fmt.Sprintf("%s: %s", spec.Resource.Name, printUtilization(spec.Resource.Target, current))
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		if status.ContainerResource != nil {
			current = status.ContainerResource.Current
		}
		return fmt.Sprintf("%s: %s", spec.ContainerResource.Name, printUtilization(spec.ContainerResource.Target, current))
	}
	return "<unknown type>"
}

func printQuantity(q *apiresource.Quantity) string {
	if q == nil {
		return unknown
	}
	return q.String()
}

func printAverageOrValue(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s/%s (avg)", printQuantity(current.AverageValue), target.AverageValue)
	}
	return printQuantity(current.Value) + "/" + printQuantity(target.Value)
}

func printUtilization(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return printQuantity(current.AverageValue) + "/" + target.AverageValue.String()
	}
	have, want := unknown, "<auto>"
	if current.AverageUtilization != nil {
		have = fmt.Sprintf("%d%%", *current.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		want = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return have + "/" + want
}
