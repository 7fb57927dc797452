package cri

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"keelson.dev/kubelet-lite/cgroups"
)

func TestSwap(t *testing.T) {
	list := func(text string) corev1.ResourceList {
		if text == "" {
			return nil
		}
		return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(text)}
	}
	for name, c := range map[string]struct {
		node           Node
		request, limit string
		priority       int32
		want           string
	}{
		"in proportion":    {node: Node{Swap: 400, MemoryCapacity: 1000}, request: "250", want: "100"},
		"limited memory":   {node: Node{Swap: 400, MemoryCapacity: 1000}, request: "250", limit: "500", want: "100"},
		"all that it may":  {node: Node{Swap: 400, MemoryCapacity: 1000}, request: "250", limit: "250", want: "0"},
		"best effort":      {node: Node{Swap: 400, MemoryCapacity: 1000}, want: "0"},
		"critical":         {node: Node{Swap: 400, MemoryCapacity: 1000}, request: "250", priority: cgroups.CriticalPriority, want: "0"},
		"none on the node": {node: Node{MemoryCapacity: 1000}, request: "250", want: "0"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Priority: &c.priority, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: list(c.request), Limits: list(c.limit)}}}}}
			c.node.CgroupV2, c.node.SwapAccounting = true, true
			if got := c.node.Resources(pod, &pod.Spec.Containers[0]).Unified["memory.swap.max"]; got != c.want {
				t.Errorf("want %s, got %s", c.want, got)
			}
			c.node.SwapAccounting = false
			if got, ok := c.node.Resources(pod, &pod.Spec.Containers[0]).Unified["memory.swap.max"]; ok {
				t.Errorf("%s where the kernel cannot limit it", got)
			}
		})
	}
}
