package devices

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/cri"
)

// request is what one container wants of one resource.
type request struct {
	container string
	init      bool
	resource  string
	amount    int
}

// wants lists what a pod's containers want of the given resources, in the order in which they start.
func wants(pod *corev1.Pod, resources []string) []request {
	var out []request
	add := func(c *corev1.Container, init bool) {
		for _, name := range resources {
			if q, ok := c.Resources.Limits[corev1.ResourceName(name)]; ok && q.Value() > 0 && !admit.FromClaim(pod, corev1.ResourceName(name)) {
				out = append(out, request{c.Name, init, name, int(q.Value())})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add(c, !cri.IsSidecar(c))
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], false)
	}
	return out
}

// inherited are the devices that init containers, which have ended by then, leave to a container. Each is left to one that runs on.
func inherited(want request, earlier []*grant) []string {
	var left []string
	for _, g := range earlier {
		if g.Resource != want.resource {
			continue
		}
		for _, id := range g.IDs {
			if at := slices.Index(left, id); at >= 0 {
				left = slices.Delete(left, at, at+1)
			}
		}
		if g.Init {
			left = append(left, g.IDs...)
		}
	}
	return left
}

// available are the healthy devices that nobody holds, neither another pod nor this one.
func available(healthy []string, resource string, held map[types.UID][]*grant, earlier []*grant) []string {
	taken := map[string]bool{}
	take := func(grants []*grant) {
		for _, g := range grants {
			if g.Resource == resource {
				for _, id := range g.IDs {
					taken[id] = true
				}
			}
		}
	}
	for _, grants := range held {
		take(grants)
	}
	take(earlier)
	return slices.DeleteFunc(slices.Clone(healthy), func(id string) bool { return taken[id] })
}
