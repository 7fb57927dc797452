package autoscaling

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// TestRoundTripThroughV1: a client of v1 that reads and writes back loses nothing of what only v2 can say.
func TestRoundTripThroughV1(t *testing.T) {
	hub := &autoscalingv2.HorizontalPodAutoscaler{
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"},
			MinReplicas:    ptr.To[int32](2), MaxReplicas: 5,
			Metrics: []autoscalingv2.MetricSpec{
				cpuUtilization(ptr.To[int32](50)),
				{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
					Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("1Gi"))},
				}},
				{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: new(resource.MustParse("7"))},
				}},
			},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](9)}},
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			CurrentReplicas: 3,
			Conditions:      []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue, Reason: "R"}},
		},
	}
	hub.Annotations = map[string]string{"kept": "yes"}
	var old autoscalingv1.HorizontalPodAutoscaler
	if err := toV1(hub, &old); err != nil {
		t.Fatal(err)
	}
	if got := ptr.Deref(old.Spec.TargetCPUUtilizationPercentage, 0); got != 50 {
		t.Errorf("v1 says %d %% CPU, want 50", got)
	}
	if _, leaked := hub.Annotations[metricsAnnotation]; leaked {
		t.Error("the hub object got v1's annotations")
	}
	var back autoscalingv2.HorizontalPodAutoscaler
	if err := toV2(&old, &back); err != nil {
		t.Fatal(err)
	}
	quantities := cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })
	if diff := cmp.Diff(hub, &back, quantities, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPrintMetrics(t *testing.T) {
	specs := []autoscalingv2.MetricSpec{cpuUtilization(ptr.To[int32](50)), cpuUtilization(ptr.To[int32](60)), cpuUtilization(nil)}
	statuses := []autoscalingv2.MetricStatus{{Resource: &autoscalingv2.ResourceMetricStatus{Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr.To[int32](12)}}}}
	if got, want := printMetrics(specs, statuses), "cpu: 12%/50%, cpu: <unknown>/60% + 1 more..."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
