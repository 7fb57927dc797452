package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"keelson.dev/apiserver/authorization/node"
)

// nodeRestriction judges what nodes write where the object itself has to be looked at: only their own Node, Lease, CSINode and
// slices, only mirrors of their own static pods, only tokens for pods that they run.
func nodeRestriction(d dependencies) hooks {
	pods := d.factory.Core().V1().Pods()
	r := &restriction{dependencies: d, pods: pods.Lister().Pods}
	return hooks{
		synced: []cache.InformerSynced{pods.Informer().HasSynced},
		admit: func(ctx context.Context, a admission.Attributes) error {
			name, isNode := node.NameOf(a.GetUserInfo())
			if !isNode {
				return nil
			}
			if name == "" {
				return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
			}
			if err := r.judge(ctx, name, a); err != nil {
				var status apierrors.APIStatus
				if errors.As(err, &status) {
					return err
				}
				return admission.NewForbidden(a, err)
			}
			return nil
		},
	}
}

func (r *restriction) judge(ctx context.Context, name string, a admission.Attributes) error {
	switch a.GetResource().Resource {
	case "pods":
		return r.judgePod(ctx, name, a)
	case "nodes":
		return judgeNode(name, a)
	case "persistentvolumeclaims":
		if a.GetSubresource() != "status" {
			return fmt.Errorf("may only update PVC status")
		}
		return nil
	case "serviceaccounts":
		return r.judgeToken(ctx, name, a)
	case "leases":
		return judgeLease(name, a)
	case "csinodes":
		return judgeNamed(name, "csinode", a)
	case "resourceslices":
		return judgeSlice(name, a)
	case "certificatesigningrequests":
		return judgeCSR(name, a)
	case "podcertificaterequests":
		return r.judgePodCertificate(ctx, name, a)
	}
	return nil
}

func (r *restriction) judgePod(ctx context.Context, name string, a admission.Attributes) error {
	switch a.GetSubresource() {
	case "":
		switch a.GetOperation() {
		case admission.Create:
			return judgeMirror(name, a)
		case admission.Delete:
			pod, err := r.pod(ctx, a.GetNamespace(), a.GetName())
			if apierrors.IsNotFound(err) {
				return err
			}
			if err != nil {
				return err
			}
			if pod.Spec.NodeName != name {
				return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", name)
			}
			return nil
		}
		return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), name)
	case "status":
		return judgePodStatus(name, a)
	case "eviction":
		return r.judgeEviction(ctx, name, a)
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

// judgeMirror admits mirrors of static pods. They refer to nothing that the node could not read otherwise.
func judgeMirror(name string, a admission.Attributes) error {
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if !isMirror(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name)
	}
	if pod.Spec.NodeName != name {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", name)
	}
	if len(pod.OwnerReferences) > 1 {
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", name)
	}
	for _, owner := range pod.OwnerReferences {
		switch {
		case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != name:
			return fmt.Errorf("node %q can only create pods with an owner reference set to itself", name)
		case owner.Controller == nil || !*owner.Controller:
			return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", name)
		case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
			return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", name)
		}
	}
	unmarked := pod.DeepCopy()
	delete(unmarked.Annotations, corev1.MirrorPodAnnotationKey)
	for _, ref := range node.References(unmarked) {
		return fmt.Errorf("node %q can not create pods that reference %s", name, ref.Resource)
	}
	return nil
}

func judgePodStatus(name string, a admission.Attributes) error {
	old, err := oldOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	switch {
	case old.Spec.NodeName != name:
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", name)
	case !equality.Semantic.DeepEqual(old.Labels, pod.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", name)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statuses", name)
	}
	return nil
}

func (r *restriction) judgeEviction(ctx context.Context, name string, a admission.Attributes) error {
	eviction, err := objectOf[*policyv1.Eviction](a)
	if err != nil {
		return err
	}
	podName := a.GetName()
	if podName == "" {
		podName = eviction.Name
	}
	pod, err := r.pod(ctx, a.GetNamespace(), podName)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != name {
		return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", name)
	}
	return nil
}

// judgeNode lets a node register and report itself, without giving itself labels or taints that steer pods to it.
func judgeNode(name string, a admission.Attributes) error {
	requested := a.GetName()
	if object, ok := a.GetObject().(*corev1.Node); ok && requested == "" {
		requested = object.Name
	}
	if requested != name {
		return fmt.Errorf("node %q is not allowed to modify node %q", name, requested)
	}
	switch a.GetOperation() {
	case admission.Delete:
		return fmt.Errorf("node %q is not allowed to delete node %q", name, requested)
	case admission.Create:
		object, err := objectOf[*corev1.Node](a)
		if err != nil {
			return err
		}
		if object.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if bad := forbiddenLabels(object.Labels, nil); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
		return nil
	}
	object, err := objectOf[*corev1.Node](a)
	if err != nil {
		return err
	}
	old, err := oldOf[*corev1.Node](a)
	if err != nil {
		return err
	}
	switch {
	case object.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(object.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", name)
	case !equality.Semantic.DeepEqual(object.Spec.Taints, old.Spec.Taints):
		return fmt.Errorf("node %q is not allowed to modify taints", name)
	case !equality.Semantic.DeepEqual(object.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", name)
	}
	if bad := forbiddenLabels(object.Labels, old.Labels); len(bad) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// forbiddenLabels returns the labels that differ and that a node may not set: those of kubernetes.io and k8s.io, except the ones
// that kubelets are known to set, and always those of node-restriction.kubernetes.io.
func forbiddenLabels(labels, old map[string]string) []string {
	var bad []string
	judge := func(key string) {
		domain, _, found := strings.Cut(key, "/")
		if !found || slices.Contains(bad, key) {
			return
		}
		switch {
		case domain == corev1.LabelNamespaceNodeRestriction || strings.HasSuffix(domain, "."+corev1.LabelNamespaceNodeRestriction):
		case kubeletapis.IsKubeletLabel(key):
			return
		case !underKubernetes(domain):
			return
		}
		bad = append(bad, key)
	}
	for key, value := range labels {
		if before, ok := old[key]; !ok || before != value {
			judge(key)
		}
	}
	for key := range old {
		if _, ok := labels[key]; !ok {
			judge(key)
		}
	}
	slices.Sort(bad)
	return bad
}

func underKubernetes(domain string) bool {
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io")
}

// judgeToken lets a node ask only for tokens that end with a pod which it runs.
func (r *restriction) judgeToken(ctx context.Context, name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	request, err := objectOf[*authenticationv1.TokenRequest](a)
	if err != nil {
		return err
	}
	ref := request.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return errors.New("node requested token not bound to a pod")
	case ref.UID == "":
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod, err := r.pod(ctx, a.GetNamespace(), ref.Name)
	if err != nil {
		return err
	}
	switch {
	case ref.UID != pod.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != name:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	return r.judgeAudiences(ctx, a, pod, request.Spec.Audiences)
}

func judgeLease(name string, a admission.Attributes) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if a.GetOperation() == admission.Create {
		lease, err := objectOf[*coordinationv1.Lease](a)
		if err != nil {
			return err
		}
		if lease.Name != name {
			return errors.New("can only access node lease with the same name as the requesting node")
		}
		return nil
	}
	return judgeNamed(name, "node lease", a)
}

func judgeNamed(name, what string, a admission.Attributes) error {
	requested := a.GetName()
	if object, ok := a.GetObject().(metav1.Object); ok && a.GetOperation() == admission.Create {
		requested = object.GetName()
	}
	if requested != name {
		return fmt.Errorf("can only access %s with the same name as the requesting node", what)
	}
	return nil
}

func judgeSlice(name string, a admission.Attributes) error {
	of := func(obj any) string {
		if slice, ok := obj.(*resourcev1.ResourceSlice); ok && slice.Spec.NodeName != nil {
			return *slice.Spec.NodeName
		}
		return ""
	}
	if a.GetOperation() != admission.Delete && of(a.GetObject()) != name {
		return errors.New("can only create/update resourceslices with the same node name as the requesting node")
	}
	if a.GetOperation() != admission.Create && of(a.GetOldObject()) != name {
		return errors.New("can only delete/update resourceslices of the requesting node")
	}
	return nil
}

// judgeCSR keeps a node from asking for a certificate of another one.
func judgeCSR(name string, a admission.Attributes) error {
	request, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || a.GetOperation() != admission.Create || !mainResource(a) {
		return nil
	}
	switch request.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName:
	default:
		return nil
	}
	parsed, err := parseRequest(request.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if parsed.Subject.CommonName != "system:node:"+name {
		return fmt.Errorf("can only create a node CSR with CN=system:node:%s", name)
	}
	return nil
}

func (r *restriction) judgePodCertificate(ctx context.Context, name string, a admission.Attributes) error {
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok || a.GetOperation() != admission.Create || !mainResource(a) {
		return nil
	}
	if string(request.Spec.NodeName) != name {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", request.Spec.NodeName, name)
	}
	pod, err := r.pod(ctx, a.GetNamespace(), request.Spec.PodName)
	if err != nil {
		return err
	}
	switch {
	case pod.UID != request.Spec.PodUID:
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID %q which differs from running pod %q", request.Spec.PodName, request.Spec.PodUID, pod.UID)
	case pod.Spec.NodeName != name:
		return fmt.Errorf("pod %q is not running on node %q", request.Spec.PodName, name)
	case pod.Spec.ServiceAccountName != request.Spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName %q, which differs from the pod's %q", request.Spec.PodName, request.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	case isMirror(pod):
		return fmt.Errorf("pod %q is a mirror pod", request.Spec.PodName)
	}
	return nil
}
