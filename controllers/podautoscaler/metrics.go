package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1api "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"keelson.dev/controllers/env"
)

// rediscover is how often the version of the custom metrics API is looked up again; an adapter may be replaced.
const rediscover = 10 * time.Minute

// metricsReader reads metrics from the aggregated APIs.
type metricsReader struct {
	resources metricsv1beta1.MetricsV1beta1Interface
	custom    custom_metrics.CustomMetricsClient
	external  external_metrics.ExternalMetricsClient
}

func newMetricsReader(e *env.Env) (*metricsReader, error) {
	resources, err := metricsv1beta1.NewForConfig(e.Config)
	if err != nil {
		return nil, fmt.Errorf("build metrics client: %w", err)
	}
	external, err := external_metrics.NewForConfig(e.Config)
	if err != nil {
		return nil, fmt.Errorf("build external metrics client: %w", err)
	}
	versions := custom_metrics.NewAvailableAPIsGetter(e.Clientset.Discovery())
	if err := e.Manager.Add(manager.RunnableFunc(func(ctx context.Context) error {
		custom_metrics.PeriodicallyInvalidate(versions, rediscover, ctx.Done())
		return nil
	})); err != nil {
		return nil, err
	}
	return &metricsReader{resources: resources, external: external, custom: custom_metrics.NewForConfig(e.Config, e.Manager.GetRESTMapper(), versions)}, nil
}

// view is what one look at an autoscaler sees.
type view struct {
	h        *autoscalingv2.HorizontalPodAutoscaler
	selector labels.Selector
	pods     []*corev1.Pod
	current  int32 // spec.replicas of the scale
	status   int32 // its status.replicas
	now      time.Time
}

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	name     string
	status   autoscalingv2.MetricStatus
}

// metricError is why a metric could not be read; reason is that of the condition.
type metricError struct {
	reason string
	error
}

func (e *metricError) Unwrap() error { return e.error }

// propose reads one metric and returns the size it asks for.
func (m *metricsReader) propose(ctx context.Context, v *view, spec *autoscalingv2.MetricSpec) (proposal, *metricError) {
	var (
		p      proposal
		err    error
		reason string
	)
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		reason = "FailedGetResourceMetric"
		p, err = m.resource(ctx, v, spec.Resource.Name, "", spec.Resource.Target)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		reason = "FailedGetContainerResourceMetric"
		p, err = m.resource(ctx, v, spec.ContainerResource.Name, spec.ContainerResource.Container, spec.ContainerResource.Target)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		reason = "FailedGetPodsMetric"
		p, err = m.ofPods(v, spec.Pods)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		reason = "FailedGetObjectMetric"
		p, err = m.ofObject(v, spec.Object)
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		reason = "FailedGetExternalMetric"
		p, err = m.ofExternal(v, spec.External)
	default:
		reason, err = "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", spec.Type)
	}
	if err != nil {
		return proposal{}, &metricError{reason, err}
	}
	p.status.Type = spec.Type
	return p, nil
}

// resource reads the usage of a resource by the pods, or by one container of each.
func (m *metricsReader) resource(ctx context.Context, v *view, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget) (proposal, error) {
	list, err := m.resources.PodMetricses(v.h.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v.selector.String()})
	if err != nil {
		return proposal{}, fmt.Errorf("failed to get %s utilization: unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %w", name, name, err)
	}
	var g goal
	what := string(name) + " resource"
	switch {
	case target.AverageValue != nil:
		g.value = target.AverageValue.MilliValue()
	case target.AverageUtilization != nil:
		what += " utilization (percentage of request)"
		g.percent = *target.AverageUtilization
		if g.requests, err = requestsOf(v.pods, name, container); err != nil {
			return proposal{}, fmt.Errorf("failed to get %s utilization: %w", name, err)
		}
	default:
		return proposal{}, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	got, err := replicasFor(v.pods, samplesOf(list.Items, name, container), g, name == corev1.ResourceCPU, v.current, behaviorOf(v.h), v.now)
	if err != nil {
		return proposal{}, fmt.Errorf("failed to get %s utilization: %w", name, err)
	}
	current := autoscalingv2.MetricValueStatus{AverageValue: milli(got.average)}
	if g.requests != nil {
		current.AverageUtilization = new(got.percent)
	}
	p := proposal{replicas: got.replicas, name: what}
	if container == "" {
		p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: name, Current: current}
		return p, nil
	}
	p.name = string(name) + " container resource"
	p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: name, Container: container, Current: current}
	return p, nil
}

// samplesOf sums up the containers of each pod. A pod of which one was not measured counts as not measured.
func samplesOf(items []metricsv1beta1api.PodMetrics, name corev1.ResourceName, container string) map[string]sample {
	samples := map[string]sample{}
	for i := range items {
		s := sample{at: items[i].Timestamp.Time, window: items[i].Window.Duration}
		complete, any := true, false
		for _, c := range items[i].Containers {
			if container != "" && c.Name != container {
				continue
			}
			usage, ok := c.Usage[name]
			complete, any = complete && ok, true
			s.value += usage.MilliValue()
		}
		if complete && any {
			samples[items[i].Name] = s
		}
	}
	return samples
}

// ofPods reads a metric that each pod has.
func (m *metricsReader) ofPods(v *view, source *autoscalingv2.PodsMetricSource) (proposal, error) {
	selector, err := selectorFor(source.Metric)
	if err != nil {
		return proposal{}, err
	}
	if source.Target.AverageValue == nil {
		return proposal{}, errors.New("invalid pods metric source: no average value target was set")
	}
	list, err := m.custom.NamespacedMetrics(v.h.Namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, v.selector, source.Metric.Name, selector)
	if err != nil {
		return proposal{}, fmt.Errorf("unable to get metric %s: unable to fetch metrics from custom metrics API: %w", source.Metric.Name, err)
	}
	samples := map[string]sample{}
	for _, item := range list.Items {
		samples[item.DescribedObject.Name] = sample{
			value: item.Value.MilliValue(), at: item.Timestamp.Time, window: seconds(int32(ptr.Deref(item.WindowSeconds, 60))),
		}
	}
	got, err := replicasFor(v.pods, samples, goal{value: source.Target.AverageValue.MilliValue()}, false, v.current, behaviorOf(v.h), v.now)
	if err != nil {
		return proposal{}, err
	}
	return proposal{replicas: got.replicas, name: "pods metric " + source.Metric.Name, status: autoscalingv2.MetricStatus{
		Pods: &autoscalingv2.PodsMetricStatus{Metric: source.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(got.average)}},
	}}, nil
}

// ofObject reads a metric of one object.
func (m *metricsReader) ofObject(v *view, source *autoscalingv2.ObjectMetricSource) (proposal, error) {
	selector, err := selectorFor(source.Metric)
	if err != nil {
		return proposal{}, err
	}
	gv, err := schema.ParseGroupVersion(source.DescribedObject.APIVersion)
	if err != nil {
		return proposal{}, fmt.Errorf("parse API version of object: %w", err)
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: source.DescribedObject.Kind}
	metrics := m.custom.NamespacedMetrics(v.h.Namespace)
	if gk.Kind == "Namespace" && gk.Group == "" {
		metrics = m.custom.RootScopedMetrics()
	}
	value, err := metrics.GetForObject(gk, source.DescribedObject.Name, source.Metric.Name, selector)
	if err != nil {
		return proposal{}, fmt.Errorf("unable to get metric %s: %s on %s %s: %w", source.Metric.Name, gk.Kind, v.h.Namespace, source.DescribedObject.Name, err)
	}
	p, current, err := v.shared(value.Value.MilliValue(), source.Target)
	if err != nil {
		return proposal{}, fmt.Errorf("invalid object metric source: %w", err)
	}
	p.name = fmt.Sprintf("%s metric %s", source.DescribedObject.Kind, source.Metric.Name)
	p.status.Object = &autoscalingv2.ObjectMetricStatus{Metric: source.Metric, DescribedObject: source.DescribedObject, Current: current}
	return p, nil
}

// ofExternal reads a metric that belongs to no object of the cluster; its series are added up.
func (m *metricsReader) ofExternal(v *view, source *autoscalingv2.ExternalMetricSource) (proposal, error) {
	selector, err := selectorFor(source.Metric)
	if err != nil {
		return proposal{}, err
	}
	list, err := m.external.NamespacedMetrics(v.h.Namespace).List(source.Metric.Name, selector)
	if err != nil {
		return proposal{}, fmt.Errorf("unable to get external metric %s/%s/%v: unable to fetch metrics from external metrics API: %w", v.h.Namespace, source.Metric.Name, selector, err)
	}
	if len(list.Items) == 0 {
		return proposal{}, fmt.Errorf("unable to get external metric %s/%s/%v: no metrics returned from external metrics API", v.h.Namespace, source.Metric.Name, selector)
	}
	var sum int64
	for i := range list.Items {
		sum += list.Items[i].Value.MilliValue()
	}
	p, current, err := v.shared(sum, source.Target)
	if err != nil {
		return proposal{}, fmt.Errorf("invalid external metric source: %w", err)
	}
	p.name = "external metric " + source.Metric.Name
	p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: source.Metric, Current: current}
	return p, nil
}

// shared proposes a size for a value that all pods share, by its target as a whole or per pod.
func (v *view) shared(value int64, target autoscalingv2.MetricTarget) (proposal, autoscalingv2.MetricValueStatus, error) {
	b := behaviorOf(v.h)
	switch {
	case target.AverageValue != nil:
		replicas, average := replicasForShare(value, target.AverageValue.MilliValue(), v.status, b)
		return proposal{replicas: replicas}, autoscalingv2.MetricValueStatus{AverageValue: milli(average)}, nil
	case target.Value != nil:
		return proposal{replicas: replicasForValue(v.pods, value, target.Value.MilliValue(), v.current, b)}, autoscalingv2.MetricValueStatus{Value: milli(value)}, nil
	}
	return proposal{}, autoscalingv2.MetricValueStatus{}, errors.New("neither a value target nor an average value target was set")
}

func selectorFor(metric autoscalingv2.MetricIdentifier) (labels.Selector, error) {
	if metric.Selector == nil {
		return labels.Everything(), nil
	}
	selector, err := metav1.LabelSelectorAsSelector(metric.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of metric: %w", err)
	}
	return selector, nil
}

func milli(value int64) *resource.Quantity {
	return resource.NewMilliQuantity(value, resource.DecimalSI)
}
