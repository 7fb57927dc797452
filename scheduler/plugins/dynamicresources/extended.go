package dynamicresources

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/util/retry"
	resourcehelper "k8s.io/component-helpers/resource"
	fwk "k8s.io/kube-scheduler/framework"
)

// A pod may ask for a device by an extended resource that a DeviceClass stands for (KEP-5004). On a node where no device plugin
// offers the resource, one claim of the pod's own is made for all such requests, and the pod's status says which container gets
// which of the claim's requests. The claim exists only in memory until the pod is bound; what it asks for depends on the node.

// backed returns the pod's resources that device classes stand for, in order.
func (p *Plugin) backed(pod *corev1.Pod) []corev1.ResourceName {
	var names []corev1.ResourceName
	for name, amount := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if !amount.IsZero() && p.dra.DeviceClassResolver().GetDeviceClass(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ownedClaim returns the claim that an earlier attempt to bind the pod has left.
func (p *Plugin) ownedClaim(pod *corev1.Pod) (*resourceapi.ResourceClaim, error) {
	all, err := p.dra.ResourceClaims().List()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(c *resourceapi.ResourceClaim) bool { return isOwned(c, pod) })
	if i < 0 {
		return nil, nil
	}
	return all[i], nil
}

func isOwned(claim *resourceapi.ResourceClaim, pod *corev1.Pod) bool {
	return claim.Annotations[resourceapi.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(claim, pod)
}

// claimFor returns the claim that the pod needs on a node, nil if device plugins offer everything there, and what each container gets
// of it. The uid is made up: it holds the place of the one that the API server will give.
func (p *Plugin) claimFor(pod *corev1.Pod, backed []corev1.ResourceName, node fwk.NodeInfo) (*resourceapi.ResourceClaim, []corev1.ContainerExtendedResourceRequest) {
	offered := node.GetAllocatable().GetScalarResources()
	needed := map[corev1.ResourceName]string{}
	for _, name := range backed {
		if class := p.dra.DeviceClassResolver().GetDeviceClass(name); class != nil && offered[name] == 0 {
			needed[name] = class.Name
		}
	}
	if len(needed) == 0 {
		return nil, nil
	}
	requests, mappings := requestsFor(pod, needed)
	return &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: pod.Name + "-extended-resources-", UID: uuid.NewUUID(),
			Annotations:     map[string]string{resourceapi.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: new(true)}},
		},
		Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: requests}},
	}, mappings
}

// requestsFor turns the containers' requests of the needed resources, each with its device class, into requests of a claim. Sidecars
// and ordinary containers get devices of their own; init containers, which have ended by then, use those of the containers after
// them first, and share the largest request for more.
func requestsFor(pod *corev1.Pod, needed map[corev1.ResourceName]string) (requests []resourceapi.DeviceRequest, mappings []corev1.ContainerExtendedResourceRequest) {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	passing := func(i int) bool {
		policy := containers[i].RestartPolicy
		return i < len(pod.Spec.InitContainers) && (policy == nil || *policy != corev1.ContainerRestartPolicyAlways)
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		lasting := make([]*resourceapi.DeviceRequest, len(containers))
		for i := range containers {
			if amount := containers[i].Resources.Requests[name]; !passing(i) && amount.Value() > 0 {
				lasting[i] = deviceRequest(i, &containers[i], name, needed[name], amount.Value())
				requests = append(requests, *lasting[i])
				mappings = append(mappings, mapping(&containers[i], name, lasting[i].Name))
			}
		}
		var largest *resourceapi.DeviceRequest
		var sharing []int // mappings onto the largest
		for i := range containers {
			want := containers[i].Resources.Requests[name]
			missing := want.Value()
			if !passing(i) || missing == 0 {
				continue
			}
			for _, later := range lasting[i:] {
				if later != nil && missing > 0 {
					missing -= later.Exactly.Count
					mappings = append(mappings, mapping(&containers[i], name, later.Name))
				}
			}
			if missing <= 0 {
				continue
			}
			if own := deviceRequest(i, &containers[i], name, needed[name], missing); largest == nil || own.Exactly.Count > largest.Exactly.Count {
				largest = own
			}
			sharing = append(sharing, len(mappings))
			mappings = append(mappings, mapping(&containers[i], name, ""))
		}
		if largest != nil {
			requests = append(requests, *largest)
		}
		for _, i := range sharing {
			mappings[i].RequestName = largest.Name
		}
	}
	slices.SortFunc(requests, func(a, b resourceapi.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return requests, mappings
}

func mapping(c *corev1.Container, name corev1.ResourceName, request string) corev1.ContainerExtendedResourceRequest {
	return corev1.ContainerExtendedResourceRequest{ContainerName: c.Name, ResourceName: string(name), RequestName: request}
}

// deviceRequest is named after the container's place in the pod and that of the resource among all that the container requests.
func deviceRequest(container int, c *corev1.Container, name corev1.ResourceName, class string, count int64) *resourceapi.DeviceRequest {
	place := slices.Index(slices.Sorted(maps.Keys(c.Resources.Requests)), name)
	return &resourceapi.DeviceRequest{
		Name: fmt.Sprintf("container-%d-request-%d", container, place),
		Exactly: &resourceapi.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: count,
		},
	}
}

// remove deletes a claim that nobody uses, with the finalizer that holds it.
func (p *Plugin) remove(ctx context.Context, claim *resourceapi.ResourceClaim) error {
	client := p.handle.ClientSet().ResourceV1().ResourceClaims(claim.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil || current.UID != claim.UID || !slices.Contains(current.Finalizers, resourceapi.Finalizer) {
			return err
		}
		current.Finalizers = slices.DeleteFunc(current.Finalizers, func(f string) bool { return f == resourceapi.Finalizer })
		_, err = client.Update(ctx, current, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = client.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s: %w", claim.Name, err)
	}
	return nil
}
