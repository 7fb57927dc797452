package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

// Devices finds what is needed to count devices under the names of the extended resources that their classes stand for (KEP-5004).
// The zero value knows of none.
type Devices struct {
	Classes func() []*resourcev1.DeviceClass
	// Pod returns nil if there is none.
	Pod    func(namespace, name string) *corev1.Pod
	Claims func(namespace string) []*resourcev1.ResourceClaim
}

// names are the extended resources that a class stands for: one by its name, and the one that it says.
func names(class *resourcev1.DeviceClass) []corev1.ResourceName {
	out := []corev1.ResourceName{corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix + class.Name)}
	if name := class.Spec.ExtendedResourceName; name != nil {
		out = append(out, corev1.ResourceName(*name))
	}
	return out
}

func (d Devices) classes() []*resourcev1.DeviceClass {
	if d.Classes == nil {
		return nil
	}
	return d.Classes()
}

// counts knows requests.example.com/gpu if a class stands for example.com/gpu.
func (d Devices) counts(name corev1.ResourceName) bool {
	extended, ok := strings.CutPrefix(string(name), requestsPrefix)
	return ok && isExtended(corev1.ResourceName(extended)) && slices.ContainsFunc(d.classes(), func(c *resourcev1.DeviceClass) bool {
		return slices.Contains(names(c), corev1.ResourceName(extended))
	})
}

// charge adds a claim's devices under the names of extended resources. What the pod for which the claim was made is charged with
// already does not count twice.
func (d Devices) charge(claim *resourcev1.ResourceClaim, used corev1.ResourceList) {
	total := corev1.ResourceList{}
	for _, class := range d.classes() {
		n, ok := used[corev1.ResourceName(class.Name+ofDeviceClass)]
		if !ok {
			continue
		}
		for _, name := range names(class) {
			sum := total[requestsPrefix+name]
			sum.Add(n)
			total[requestsPrefix+name] = sum
		}
	}
	if len(total) == 0 {
		return
	}
	charged := d.chargedToPod(claim)
	for name, n := range total {
		n.Sub(charged[name])
		if n.Sign() > 0 {
			used[name] = *resource.NewQuantity(n.Value(), resource.DecimalSI)
		}
	}
}

// chargedToPod is the usage of the pod for whose extended resources the claim was made. A claim that only says so, beside the real
// one, has none.
func (d Devices) chargedToPod(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	pod := d.Pod(claim.Namespace, owner.Name)
	if pod == nil || pod.UID != owner.UID {
		return nil
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		if s.ResourceClaimName != claim.Name {
			return nil
		}
		return podUsage(pod, clock.RealClock{})
	}
	for _, other := range d.Claims(claim.Namespace) {
		mine := other.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(other, pod)
		if order := other.CreationTimestamp.Compare(claim.CreationTimestamp.Time); mine && (order < 0 || order == 0 && other.Name < claim.Name) {
			return nil
		}
	}
	return podUsage(pod, clock.RealClock{})
}
