package nodeinfo

import (
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestPlainSums compares the short way of adding up requests with the helper that knows every case.
func TestPlainSums(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "example.com/gpu", "hugepages-2Mi"}
	values := []string{"0", "1", "150m", "1500m", "1Gi", "1e3"}
	for range 2000 {
		pod := &corev1.Pod{}
		for range r.IntN(4) {
			c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
			for _, name := range names {
				if r.IntN(2) == 0 {
					c.Resources.Requests[name] = resource.MustParse(values[r.IntN(len(values))])
				}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		requests := PodRequests(pod)
		want := NewResource(requests)
		cpu, memory := NonZeroRequests(pod, requests)
		got := podResource(pod)
		if sum := got.Resource.(*Resource); !reflect.DeepEqual(*sum, want) || got.Non0CPU != cpu || got.Non0Mem != memory {
			t.Fatalf("%v: got %+v %d %d, want %+v %d %d", pod.Spec.Containers, *sum, got.Non0CPU, got.Non0Mem, want, cpu, memory)
		}
	}
}
