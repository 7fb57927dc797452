package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// restriction looks up what NodeRestriction needs to know about pods and nodes.
type restriction struct {
	dependencies
	pods  func(namespace string) corelisters.PodNamespaceLister
	nodes corelisters.NodeLister
}

// pod reads from the cache, and from the API when the cache has none, one that no node had yet or, if uid is given, a former one of
// that name: the pod may have been bound a moment ago, and its node has often heard of it before this server's own watch.
func (r *restriction) pod(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if pod, err := r.pods(namespace).Get(name); err == nil && pod.Spec.NodeName != "" && (uid == "" || uid == pod.UID) {
		return pod, nil
	}
	return r.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// node does the same for nodes: a node may have registered a moment ago.
func (r *restriction) node(ctx context.Context, name string) (*corev1.Node, error) {
	if node, err := r.nodes.Get(name); err == nil {
		return node, nil
	}
	return r.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// judgeAudience lets a node ask only for an audience that the pod itself names, in projected volumes or by the CSI drivers of its
// volumes, or that RBAC allows it for the account. A token for another service must not be had by breaking into a node.
func (r *restriction) judgeAudience(ctx context.Context, a admission.Attributes, pod *corev1.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return errors.New("node may only request 0 or 1 audiences")
	}
	audience := ""
	if len(audiences) == 1 {
		audience = audiences[0]
	}
	if slices.Contains(projectedAudiences(pod), audience) {
		return nil
	}
	named, failed := r.driverAudiences(ctx, pod)
	switch {
	case slices.Contains(named, audience):
		return nil
	case failed != nil:
		return fmt.Errorf("error validating audience %q: %w", audience, failed)
	case r.allowed(ctx, a, "request-serviceaccounts-token-audience", audience, a.GetName()):
		return nil
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", a.GetUserInfo().GetName(), audience)
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
func (r *restriction) driverAudiences(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	var audiences []string
	var errs []error
	for i := range pod.Spec.Volumes {
		name, err := r.driverOf(ctx, pod, &pod.Spec.Volumes[i])
		if err != nil || name == "" {
			errs = append(errs, err)
			continue
		}
		driver, err := r.client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, request := range driver.Spec.TokenRequests {
			audiences = append(audiences, request.Audience)
		}
	}
	return audiences, utilerrors.NewAggregate(errs)
}

func (r *restriction) driverOf(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) (string, error) {
	claimName := ""
	switch {
	case volume.CSI != nil:
		return volume.CSI.Driver, nil
	case volume.PersistentVolumeClaim != nil:
		claimName = volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		claimName = ephemeral.VolumeClaimName(pod, volume)
	default:
		return "", nil
	}
	claim, err := r.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claimName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return "", err
	}
	bound, err := r.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || bound.Spec.CSI == nil {
		return "", err
	}
	return bound.Spec.CSI.Driver, nil
}

// allowed asks for a verb that administrators grant to nodes for what no pod explains, for example tokens for registries.
func (r *restriction) allowed(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: a.GetNamespace(), Name: name,
		APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version, Resource: resource, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// judgePodCertificate lets a node ask for certificates of the pods that it runs, from the signers that their volumes name.
func (r *restriction) judgePodCertificate(ctx context.Context, name string, a admission.Attributes) error {
	switch {
	case a.GetOperation() != admission.Create:
		return fmt.Errorf("unexpected operation %v", a.GetOperation())
	case !mainResource(a):
		return fmt.Errorf("unexpected subresource %v", a.GetSubresource())
	}
	request, err := objectOf[*certificatesv1.PodCertificateRequest](a)
	if err != nil {
		return err
	}
	of := &request.Spec
	if string(of.NodeName) != name {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", of.NodeName, name)
	}
	node, err := r.node(ctx, name)
	if err != nil {
		return fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: %w", name, err)
	}
	key := a.GetNamespace() + "/" + of.PodName
	pod, err := r.pod(ctx, a.GetNamespace(), of.PodName, of.PodUID)
	if err != nil {
		return fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", key, err)
	}
	account, err := r.client.CoreV1().ServiceAccounts(a.GetNamespace()).Get(ctx, of.ServiceAccountName, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case of.NodeUID != node.UID:
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", key, of.NodeUID, node.UID)
	case of.PodUID != pod.UID:
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", key, of.PodUID, pod.UID)
	case pod.Spec.NodeName != name:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", key, name)
	case isMirror(pod):
		return fmt.Errorf("pod %q is a mirror pod", key)
	case of.ServiceAccountName != pod.Spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", key, of.ServiceAccountName, pod.Spec.ServiceAccountName)
	case err != nil:
		return fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: %w", a.GetNamespace()+"/"+of.ServiceAccountName, err)
	case of.ServiceAccountUID != account.UID:
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", key, of.ServiceAccountUID, account.UID)
	}
	// A resource in RBAC has no slash; ClusterTrustBundles name signers in the same way.
	if !mountsSigner(pod, of.SignerName) &&
		!r.allowed(ctx, a, "request-serviceaccounts-podcertificate-signer", strings.ReplaceAll(of.SignerName, "/", ":"), of.ServiceAccountName) {
		return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", key, of.SignerName)
	}
	return nil
}

func mountsSigner(pod *corev1.Pod, signer string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.PodCertificate != nil && s.PodCertificate.SignerName == signer
		})
	})
}
