package dynamicresources

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Which claim requests follow from the containers' requests, and who gets devices of which.
func TestRequestsFor(t *testing.T) {
	container := func(name string, gpus string) corev1.Container {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		if gpus != "" {
			list["example.com/gpu"] = resource.MustParse(gpus)
		}
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list}}
	}
	sidecar := container("sidecar", "1")
	sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	cases := map[string]struct {
		init, containers []corev1.Container
		requests         []string // name=count
		mappings         []string // container=request
	}{
		"one":                        {containers: []corev1.Container{container("a", "2")}, requests: []string{"container-0-request-1=2"}, mappings: []string{"a=container-0-request-1"}},
		"who wants none gets none":   {containers: []corev1.Container{container("a", ""), container("b", "0"), container("c", "1")}, requests: []string{"container-2-request-1=1"}, mappings: []string{"c=container-2-request-1"}},
		"init uses those of later":   {init: []corev1.Container{container("i", "1")}, containers: []corev1.Container{container("a", "2")}, requests: []string{"container-1-request-1=2"}, mappings: []string{"a=container-1-request-1", "i=container-1-request-1"}},
		"a sidecar before does not":  {init: []corev1.Container{sidecar, container("i", "1")}, requests: []string{"container-0-request-1=1", "container-1-request-1=1"}, mappings: []string{"sidecar=container-0-request-1", "i=container-1-request-1"}},
		"init shares with init":      {init: []corev1.Container{container("i", "2"), container("j", "3")}, containers: []corev1.Container{container("a", "1")}, requests: []string{"container-1-request-1=2", "container-2-request-1=1"}, mappings: []string{"a=container-2-request-1", "i=container-2-request-1", "i=container-1-request-1", "j=container-2-request-1", "j=container-1-request-1"}},
		"init takes no more than it": {init: []corev1.Container{container("i", "1")}, containers: []corev1.Container{container("a", "1"), container("b", "1")}, requests: []string{"container-1-request-1=1", "container-2-request-1=1"}, mappings: []string{"a=container-1-request-1", "b=container-2-request-1", "i=container-1-request-1"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: tc.init, Containers: tc.containers}}
			requests, mappings := requestsFor(pod, map[corev1.ResourceName]string{"example.com/gpu": "gpu"})
			var gotRequests, gotMappings []string
			for _, r := range requests {
				gotRequests = append(gotRequests, fmt.Sprintf("%s=%d", r.Name, r.Exactly.Count))
			}
			for _, m := range mappings {
				gotMappings = append(gotMappings, m.ContainerName+"="+m.RequestName)
			}
			if diff := cmp.Diff(tc.requests, gotRequests); diff != "" || !slices.Equal(tc.mappings, gotMappings) {
				t.Errorf("requests (-want +got):\n%s\nmappings %v, want %v", diff, gotMappings, tc.mappings)
			}
		})
	}
}
