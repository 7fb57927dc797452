package dra

import (
	"maps"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
)

// claim is what is known about a claim that drivers may have prepared.
type claim struct {
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	UID       types.UID           `json:"uid"`
	Pods      []types.UID         `json:"pods"`     // that use it
	Prepared  bool                `json:"prepared"` // by all drivers
	Drivers   map[string][]device `json:"drivers"`  // those of its devices, and what each prepared

	releasing bool // drivers are being asked to take it back
}

// device is a prepared device.
type device struct {
	Requests []string `json:"requests,omitempty"` // of the claim that it answers; empty: all
	CDI      []string `json:"cdi,omitempty"`
	Pool     string   `json:"pool,omitempty"`
	Name     string   `json:"name,omitempty"`
	Share    *string  `json:"share,omitempty"`
}

// answers reports whether the device was given for a request, or for any if request is empty. A request with alternatives means the one
// that was chosen.
func (d device) answers(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool { return resourceclaim.BaseRequestRef(r) == request })
}

func newClaim(c *resourcev1.ResourceClaim) *claim {
	out := &claim{Namespace: c.Namespace, Name: c.Name, UID: c.UID, Drivers: map[string][]device{}}
	for _, name := range driversOf(c) {
		out.Drivers[name] = nil
	}
	return out
}

func (c *claim) message() *drapb.Claim {
	return &drapb.Claim{Namespace: c.Namespace, Name: c.Name, Uid: string(c.UID)}
}

// cdi are the CDI device names of a request, or of all if request is empty.
func (c *claim) cdi(request string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.Drivers)) {
		for _, d := range c.Drivers[name] {
			if d.answers(request) {
				out = append(out, d.CDI...)
			}
		}
	}
	return out
}

// driversOf names the drivers of the devices that a claim was given.
func driversOf(c *resourcev1.ResourceClaim) []string {
	names := map[string]bool{}
	for _, result := range c.Status.Allocation.Devices.Results {
		names[result.Driver] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func devicesOf(r *drapb.NodePrepareResourceResponse) []device {
	var out []device
	for _, d := range r.GetDevices() {
		out = append(out, device{Requests: d.RequestNames, CDI: d.CdiDeviceIds, Pool: d.PoolName, Name: d.DeviceName, Share: d.ShareId})
	}
	return out
}

// references are the pod's claims, with the one that stands for its extended resources.
func references(pod *corev1.Pod) []corev1.PodResourceClaim {
	out := pod.Spec.ResourceClaims
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		out = append(slices.Clone(out), corev1.PodResourceClaim{ResourceClaimName: &s.ResourceClaimName})
	}
	return out
}

// use is one request of a claim that a container gets devices of; an empty request means all.
type use struct{ claim, request string }

func uses(pod *corev1.Pod, c *corev1.Container) []use {
	var out []use
	for _, wanted := range c.Resources.Claims {
		for i := range pod.Spec.ResourceClaims {
			if reference := &pod.Spec.ResourceClaims[i]; reference.Name == wanted.Name {
				if name, _, err := resourceclaim.Name(pod, reference); err == nil && name != nil {
					out = append(out, use{*name, wanted.Request})
				}
			}
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		for _, m := range s.RequestMappings {
			if amount := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; m.ContainerName == c.Name && !amount.IsZero() {
				out = append(out, use{s.ResourceClaimName, m.RequestName})
			}
		}
	}
	return out
}

func stateFile(root string) string { return filepath.Join(root, "dra_claims.json") }
