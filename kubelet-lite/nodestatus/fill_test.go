package nodestatus

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestExtendedResourcesOfOthersStay(t *testing.T) {
	one, two := resource.MustParse("1"), resource.MustParse("2")
	own := corev1.ResourceList{"cpu": two, "example.com/ours": one}
	cases := map[string]struct{ before, capacity, allocatable corev1.ResourceList }{
		"None":       {corev1.ResourceList{}, own, own},
		"Advertised": {corev1.ResourceList{"example.com/foo": one}, corev1.ResourceList{"cpu": two, "example.com/ours": one, "example.com/foo": one}, corev1.ResourceList{"cpu": two, "example.com/ours": one, "example.com/foo": one}},
		"OursWins":   {corev1.ResourceList{"example.com/ours": two}, own, own},
		"NotForeign": {corev1.ResourceList{"hugepages-2Mi": one, "attachable.kubernetes.io/x": one}, own, own},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := &Manager{cfg: Config{
				Capacity: corev1.ResourceList{"cpu": two}, Allocatable: corev1.ResourceList{"cpu": two},
				Extra: func() (corev1.ResourceList, corev1.ResourceList) {
					return corev1.ResourceList{"example.com/ours": one}, corev1.ResourceList{"example.com/ours": one}
				},
			}}
			status := corev1.NodeStatus{Capacity: tc.before}
			m.fillResources(&status)
			if diff := cmp.Diff(tc.capacity, status.Capacity); diff != "" {
				t.Errorf("capacity: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(tc.allocatable, status.Allocatable); diff != "" {
				t.Errorf("allocatable: -want +got:\n%s", diff)
			}
		})
	}
}

func TestDeclaredFeatures(t *testing.T) {
	want := []string{
		"ExtendWebSocketsToKubelet", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers",
		"RestartAllContainersOnContainerExits",
	}
	if got := declaredFeatures(); !slices.Equal(got, want) {
		t.Errorf("declared features: %v, want %v", got, want)
	}
}
