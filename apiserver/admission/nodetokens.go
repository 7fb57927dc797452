package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// restriction looks up what NodeRestriction needs to know about pods.
type restriction struct {
	dependencies
	pods func(namespace string) corelisters.PodNamespaceLister
}

// pod reads from the cache, and from the API when the cache has none: a pod may have been bound a moment ago.
func (r *restriction) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := r.pods(namespace).Get(name); err == nil {
		return pod, nil
	}
	return r.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// judgeAudiences lets a node ask only for audiences that the pod itself names, in projected volumes or by the CSI drivers of its
// volumes, or that RBAC allows it for the account. A token for another service must not be had by breaking into a node.
func (r *restriction) judgeAudiences(ctx context.Context, a admission.Attributes, pod *corev1.Pod, audiences []string) error {
	var outside []string
	named := projectedAudiences(pod)
	for _, audience := range audiences {
		if !slices.Contains(named, audience) {
			outside = append(outside, audience)
		}
	}
	if len(audiences) == 0 && !slices.Contains(named, "") {
		outside = []string{""}
	}
	if len(outside) == 0 {
		return nil
	}
	drivers := r.driverAudiences(ctx, pod)
	for _, audience := range outside {
		if slices.Contains(drivers, audience) || r.allowed(ctx, a, audience) {
			continue
		}
		return fmt.Errorf("audience %q not found in pod spec volume, system:node:%s is not authorized to request tokens for this audience", audience, pod.Spec.NodeName)
	}
	return nil
}

// projectedAudiences lists those of the pod's token volumes; "" is the API server's own.
func projectedAudiences(pod *corev1.Pod) []string {
	var audiences []string
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil {
				audiences = append(audiences, source.ServiceAccountToken.Audience)
			}
		}
	}
	return audiences
}

// driverAudiences lists those that the CSI drivers of the pod's volumes ask for. It is only looked up for tokens that no projected
// volume explains, which are those for drivers.
func (r *restriction) driverAudiences(ctx context.Context, pod *corev1.Pod) []string {
	var audiences []string
	for i := range pod.Spec.Volumes {
		name := r.driverOf(ctx, pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		driver, err := r.client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			continue // a driver that is not registered asks for nothing
		}
		for _, request := range driver.Spec.TokenRequests {
			audiences = append(audiences, request.Audience)
		}
	}
	return audiences
}

func (r *restriction) driverOf(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) string {
	claimName := ""
	switch {
	case volume.CSI != nil:
		return volume.CSI.Driver
	case volume.PersistentVolumeClaim != nil:
		claimName = volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		claimName = ephemeral.VolumeClaimName(pod, volume)
	default:
		return ""
	}
	claim, err := r.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claimName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || claim.Spec.VolumeName == "" {
		return ""
	}
	bound, err := r.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || bound.Spec.CSI == nil {
		return ""
	}
	return bound.Spec.CSI.Driver
}

// allowed asks for the verb that administrators grant to nodes for further audiences, for example for registry credentials.
func (r *restriction) allowed(ctx context.Context, a admission.Attributes, audience string) bool {
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience", Namespace: a.GetNamespace(), Name: a.GetName(),
		APIGroup: "", APIVersion: "*", Resource: audience, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
