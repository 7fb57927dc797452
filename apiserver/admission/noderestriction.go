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
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	"k8s.io/utils/ptr"

	"keelson.dev/apiserver/authorization/node"
)

// nodeRestriction judges what nodes write where the object itself has to be looked at: only their own Node, Lease, CSINode and
// slices, only mirrors of their own static pods, only tokens for pods that they run.
func nodeRestriction(d dependencies) hooks {
	pods, nodes := d.factory.Core().V1().Pods(), d.factory.Core().V1().Nodes()
	r := &restriction{dependencies: d, pods: pods.Lister().Pods, nodes: nodes.Lister()}
	return hooks{
		synced: []cache.InformerSynced{pods.Informer().HasSynced, nodes.Informer().HasSynced},
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
		return judgeClaim(name, a)
	case "serviceaccounts":
		return r.judgeToken(ctx, name, a)
	case "leases":
		return judgeLease(name, a)
	case "csinodes":
		return judgeNamed(name, "CSINode", a)
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
			return r.judgeMirror(ctx, name, a)
		case admission.Delete:
			pod, err := r.pod(ctx, a.GetNamespace(), a.GetName(), "")
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
func (r *restriction) judgeMirror(ctx context.Context, name string, a admission.Attributes) error {
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
	if err := r.judgeOwner(ctx, name, pod.OwnerReferences); err != nil {
		return err
	}
	if ref := apiReference(pod); ref != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", name, ref)
	}
	return nil
}

func (r *restriction) judgeOwner(ctx context.Context, name string, owners []metav1.OwnerReference) error {
	switch {
	case len(owners) > 1:
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", name)
	case len(owners) == 0 || owners[0].APIVersion != "v1" || owners[0].Kind != "Node" || owners[0].Name != name:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", name)
	case !ptr.Deref(owners[0].Controller, false):
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", name)
	case ptr.Deref(owners[0].BlockOwnerDeletion, false):
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", name)
	}
	object, err := r.node(ctx, name)
	if err != nil {
		return err
	}
	if owners[0].UID != object.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", name, owners[0].UID, object.UID)
	}
	return nil
}

// apiReference names a kind of object in the API that a mirror pod refers to, "" for none. What the node knows itself, such as
// directories, is no reference.
func apiReference(pod *corev1.Pod) string {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.ConfigMap != nil:
			return "configmaps (via configmap volumes)"
		case v.Secret != nil:
			return "secrets (via secret volumes)"
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case v.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims"
		case v.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)"
		case v.Projected != nil:
			if ref := projectedReference(v.Projected.Sources); ref != "" {
				return ref
			}
		}
	}
	unmarked := pod.DeepCopy()
	delete(unmarked.Annotations, corev1.MirrorPodAnnotationKey)
	for _, ref := range node.References(unmarked) {
		return ref.Resource
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	return ""
}

func projectedReference(sources []corev1.VolumeProjection) string {
	for _, s := range sources {
		switch {
		case s.ConfigMap != nil:
			return "configmaps (via projected volumes)"
		case s.Secret != nil:
			return "secrets (via projected volumes)"
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)"
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case s.PodCertificate != nil:
			return "podcertificates"
		}
	}
	return ""
}

func judgePodStatus(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
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
		return fmt.Errorf("node %q cannot update resource claim statues", name) // upstream's spelling
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", name)
	case !equality.Semantic.DeepEqual(old.Status.NodeAllocatableResourceClaimStatuses, pod.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", name)
	}
	return nil
}

func (r *restriction) judgeEviction(ctx context.Context, name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return fmt.Errorf("unexpected operation %s", a.GetOperation())
	}
	eviction, err := objectOf[*policyv1.Eviction](a)
	if err != nil {
		return err
	}
	podName := a.GetName()
	if podName == "" {
		podName = eviction.Name
	}
	pod, err := r.pod(ctx, a.GetNamespace(), podName, "")
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
		return nil // the authorizer does not let it
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
	pod, err := r.pod(ctx, a.GetNamespace(), ref.Name, ref.UID)
	if err != nil {
		return err
	}
	switch {
	case ref.UID != pod.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != name:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	return r.judgeAudience(ctx, a, pod, request.Spec.Audiences)
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

// judgeClaim lets a node report how large a claim is and how far a change of it has come, and nothing else of it.
func judgeClaim(name string, a admission.Attributes) error {
	switch {
	case a.GetSubresource() != "status":
		return errors.New("may only update PVC status")
	case a.GetOperation() != admission.Update:
		return fmt.Errorf("unexpected operation %q", a.GetOperation())
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	old, err := oldOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	rest := func(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c := claim.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions, c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil, nil, nil
		return c
	}
	if before, after := rest(old), rest(claim); !equality.Semantic.DeepEqual(before, after) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions: %v", name, diff.Diff(before, after))
	}
	return nil
}

// judgeSlice looks at the objects, which the authorizer does not: of each operation, what stands afterwards and what stood before.
func judgeSlice(name string, a admission.Attributes) error {
	for _, obj := range []any{a.GetObject(), a.GetOldObject()} {
		if slice, ok := obj.(*resourcev1.ResourceSlice); ok && ptr.Deref(slice.Spec.NodeName, "") != name {
			return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", strings.ToLower(string(a.GetOperation())))
		}
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
