package scheduler

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func deviceSlice(node string, devices ...string) *resourceapi.ResourceSlice {
	s := &resourceapi.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-gpus"},
		Spec: resourceapi.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, ResourceSliceCount: 1},
		},
	}
	for _, name := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourceapi.Device{Name: name})
	}
	return s
}

func deviceClass(name string) *resourceapi.DeviceClass {
	return &resourceapi.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourceapi.DeviceClassSpec{Selectors: []resourceapi.DeviceSelector{{
			CEL: &resourceapi.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`},
		}}},
	}
}

func deviceClaim(name, class string) *resourceapi.ResourceClaim {
	return &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{{
			Name:    "gpu",
			Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 1},
		}}}},
	}
}

func withDevice(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "gpu"}}
	}
}

func TestDevices(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"), deviceClass("gpu"), deviceSlice("b", "gpu-0"),
		deviceClaim("one", "gpu"), deviceClaim("two", "gpu"), deviceClaim("odd", "nothing"))
	c.create(testPod("first", withDevice("one")))
	if got := c.nodeOf("first"); got != "b" {
		t.Errorf("the pod is on %s, want b, where the device is", got)
	}
	claim, err := c.client.ResourceV1().ResourceClaims("default").Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := claim.Status.Allocation; a == nil || len(a.Devices.Results) != 1 || a.Devices.Results[0].Device != "gpu-0" {
		t.Errorf("the claim's allocation is %v, want gpu-0", a)
	}
	if r := claim.Status.ReservedFor; len(r) != 1 || r[0].Name != "first" {
		t.Errorf("the claim is reserved for %v, want the pod", r)
	}
	if len(claim.Finalizers) != 1 {
		t.Errorf("an allocated claim has the finalizers %v, want one", claim.Finalizers)
	}

	const unhelpful = " preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
	c.create(testPod("second", withDevice("two")))
	c.refused("second", "0/2 nodes are available: 2 cannot allocate all claims."+unhelpful)
	c.create(testPod("third", withDevice("odd")))
	c.refused("third", `0/2 nodes are available: request in resourceclaim "odd": device class nothing does not exist.`+
		" preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	// A claim that is allocated can be shared, and takes the pod to its node.
	c.create(testPod("shares", withDevice("one")))
	c.nodeOf("shares")
	if _, err := c.client.ResourceV1().ResourceSlices().Create(t.Context(), deviceSlice("a", "gpu-1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.nodeOf("second"); got != "a" {
		t.Errorf("the pod is on %s, want a, where a device came up", got)
	}
}

func TestPodWaitsForItsClaim(t *testing.T) {
	c := startCluster(t, testNode("a"), deviceClass("gpu"), deviceSlice("a", "gpu-0"))
	c.create(testPod("early", withDevice("late")))
	c.create(testPod("other"))
	c.nodeOf("other")
	if _, err := c.client.ResourceV1().ResourceClaims("default").Create(t.Context(), deviceClaim("late", "gpu"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pod gets its device", func(ctx context.Context) (bool, error) {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, "early", metav1.GetOptions{})
		return err == nil && pod.Spec.NodeName == "a", err
	})
}
