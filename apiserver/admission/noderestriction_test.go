package admission

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestNodeRestriction(t *testing.T) {
	placed := func(name, node string, change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Name, p.UID, p.Spec.NodeName, p.Spec.ServiceAccountName = name, types.UID(name+"-uid"), node, "sa"
			p.Spec.Volumes = []corev1.Volume{
				{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}},
					{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/s"}},
				}}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d"}}},
			}
			if change != nil {
				change(p)
			}
		})
	}
	mine, other := placed("mine", "n1", nil), placed("other", "n2", nil)
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "cloud"}}}}
	mirror := func(node string, change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Annotations = node, map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			if change != nil {
				change(p)
			}
		})
	}
	nodeOf := func(name string, labels map[string]string, change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		if change != nil {
			change(n)
		}
		return n
	}
	token := func(pod *corev1.Pod, audiences ...string) *authenticationv1.TokenRequest {
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		if pod != nil {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
		}
		return r
	}
	tokenOf := func(r *authenticationv1.TokenRequest) request {
		return request{resource: "serviceaccounts", subresource: "token", name: "sa", obj: r}
	}
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	slice := func(node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{NodeName: &node}}
	}
	owned := func(kind, name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(name + "-uid"), Controller: new(true)}}
		}
	}
	withVolume := func(source corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			owned("Node", "n1")(p)
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		}
	}
	projecting := func(source corev1.VolumeProjection) corev1.VolumeSource {
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}}}
	}
	claim := func(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", ResourceVersion: "1"}}
		if change != nil {
			change(c)
		}
		return c
	}
	claimStatus := func(change func(*corev1.PersistentVolumeClaim)) request {
		return request{resource: "persistentvolumeclaims", subresource: "status", operation: admission.Update, obj: claim(change), old: claim(nil)}
	}
	podCertificate := func(change func(*certificatesv1.PodCertificateRequestSpec)) request {
		spec := certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/s", PodName: "mine", PodUID: "mine-uid", ServiceAccountName: "sa", ServiceAccountUID: "sa-uid", NodeName: "n1", NodeUID: "n1-uid",
		}
		if change != nil {
			change(&spec)
		}
		return request{resource: "podcertificaterequests.certificates.k8s.io", obj: &certificatesv1.PodCertificateRequest{Spec: spec}}
	}
	statusOf := func(change func(*corev1.Pod)) request {
		return request{resource: "pods", subresource: "status", operation: admission.Update, name: "mine", obj: placed("mine", "n1", change), old: mine}
	}
	old := nodeOf("n1", map[string]string{"kubernetes.io/hostname": "n1"}, nil)
	cases := map[string]struct {
		request request
		refused string
	}{
		"mirror":                  {request{resource: "pods", obj: mirror("n1", owned("Node", "n1"))}, ""},
		"mirror for another":      {request{resource: "pods", obj: mirror("n2", nil)}, "spec.nodeName set to itself"},
		"mirror owned by another": {request{resource: "pods", obj: mirror("n1", owned("Node", "n2"))}, "owner reference set to itself"},
		"mirror with account":     {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) { owned("Node", "n1")(p); p.Spec.ServiceAccountName = "x" })}, "can not create pods that reference serviceaccounts"},
		"mirror without owner":    {request{resource: "pods", obj: mirror("n1", nil)}, "can only create pods with an owner reference set to itself"},
		"mirror of former node":   {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) { owned("Node", "n1")(p); p.OwnerReferences[0].UID = "x" })}, "UID mismatch: expected x got n1-uid"},
		"mirror, no controller":   {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) { owned("Node", "n1")(p); p.OwnerReferences[0].Controller = nil })}, "with a controller owner reference"},
		"mirror that blocks":      {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) { owned("Node", "n1")(p); p.OwnerReferences[0].BlockOwnerDeletion = new(true) })}, "must not set blockOwnerDeletion"},
		"mirror, two owners": {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) {
			owned("Node", "n1")(p)
			p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0])
		})}, "single owner reference"},
		"mirror with directory": {request{resource: "pods", obj: mirror("n1", withVolume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}))}, ""},
		"mirror with downward":  {request{resource: "pods", obj: mirror("n1", withVolume(projecting(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}})))}, ""},
		"mirror with secret":    {request{resource: "pods", obj: mirror("n1", withVolume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}))}, "secrets (via secret volumes)"},
		"mirror with CSI":       {request{resource: "pods", obj: mirror("n1", withVolume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d"}}))}, "csidrivers (via CSI volumes)"},
		"mirror with claim":     {request{resource: "pods", obj: mirror("n1", withVolume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}))}, "persistentvolumeclaims (via ephemeral volumes)"},
		"mirror with token":     {request{resource: "pods", obj: mirror("n1", withVolume(projecting(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}})))}, "serviceaccounts (via projected volumes)"},
		"mirror with trust":     {request{resource: "pods", obj: mirror("n1", withVolume(projecting(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}})))}, "clustertrustbundles"},
		"mirror with device": {request{resource: "pods", obj: mirror("n1", func(p *corev1.Pod) {
			owned("Node", "n1")(p)
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "r"}}
		})}, "resourceclaims"},
		"no mirror":             {request{resource: "pods", obj: placed("x", "n1", nil)}, "can only create mirror pods"},
		"delete own pod":        {request{resource: "pods", operation: admission.Delete, name: "mine"}, ""},
		"delete other's pod":    {request{resource: "pods", operation: admission.Delete, name: "other"}, "can only delete pods with spec.nodeName set to itself"},
		"status of own pod":     {request{resource: "pods", subresource: "status", operation: admission.Update, name: "mine", obj: mine, old: mine}, ""},
		"status of other's pod": {request{resource: "pods", subresource: "status", operation: admission.Update, name: "other", obj: other, old: other}, "can only update pod status"},
		"labels through status": {request{resource: "pods", subresource: "status", operation: admission.Update, obj: placed("mine", "n1", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }), old: mine}, "cannot update labels through pod status"},
		"device claims":         {statusOf(func(p *corev1.Pod) { p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "r"}} }), "cannot update resource claim statues"},
		"extended claim":        {statusOf(func(p *corev1.Pod) { p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{} }), "cannot update extended resource claim status"},
		"change of spec":        {request{resource: "pods", operation: admission.Update, name: "mine", obj: mine, old: mine}, "can only create and delete mirror pods"},
		"evict own":             {request{resource: "pods", subresource: "eviction", name: "mine", obj: &policyv1.Eviction{}}, ""},
		"evict other's":         {request{resource: "pods", subresource: "eviction", name: "other", obj: &policyv1.Eviction{}}, "can only evict pods"},
		"bind":                  {request{resource: "pods", subresource: "binding", name: "mine", obj: &corev1.Binding{}}, "unexpected pod subresource"},

		"register":         {request{resource: "nodes", obj: nodeOf("n1", map[string]string{"kubernetes.io/os": "linux", "node.kubernetes.io/x": "y", "own.example.com/z": "1"}, nil)}, ""},
		"register another": {request{resource: "nodes", obj: nodeOf("n2", nil, nil)}, "is not allowed to modify node \"n2\""},
		"restricted label": {request{resource: "nodes", obj: nodeOf("n1", map[string]string{"node-restriction.kubernetes.io/x": "y"}, nil)}, "is not allowed to set the following labels: node-restriction.kubernetes.io/x"},
		"role label":       {request{resource: "nodes", obj: nodeOf("n1", map[string]string{"node-role.kubernetes.io/control-plane": ""}, nil)}, "is not allowed to set"},
		"update own":       {request{resource: "nodes", operation: admission.Update, name: "n1", obj: old, old: old}, ""},
		"update another":   {request{resource: "nodes", operation: admission.Update, name: "n2", obj: old, old: old}, "is not allowed to modify node"},
		"change taints":    {request{resource: "nodes", operation: admission.Update, name: "n1", obj: nodeOf("n1", old.Labels, func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} }), old: old}, "is not allowed to modify taints"},
		"new role label":   {request{resource: "nodes", operation: admission.Update, name: "n1", obj: nodeOf("n1", map[string]string{"kubernetes.io/hostname": "n1", "kubernetes.io/x": ""}, nil), old: old}, "is not allowed to modify labels: kubernetes.io/x"},
		"change owners":    {request{resource: "nodes", operation: admission.Update, name: "n1", obj: nodeOf("n1", old.Labels, func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }), old: old}, "is not allowed to modify ownerReferences"},
		"config source":    {request{resource: "nodes", obj: nodeOf("n1", nil, func(n *corev1.Node) { n.Spec.ConfigSource = &corev1.NodeConfigSource{} })}, "non-nil configSource"},
		"claim's size": {claimStatus(func(c *corev1.PersistentVolumeClaim) {
			c.ResourceVersion, c.Status.Capacity = "", list("storage", "1Gi")
		}), ""},
		"claim's progress":       {claimStatus(func(c *corev1.PersistentVolumeClaim) { c.Status.AllocatedResources = list("storage", "1Gi") }), ""},
		"claim's phase":          {claimStatus(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), "is not allowed to update fields other than status.quantity"},
		"claim's finalizers":     {claimStatus(func(c *corev1.PersistentVolumeClaim) { c.Finalizers = []string{"x/y"} }), "is not allowed to update fields other than status.quantity"},
		"pod certificate":        {podCertificate(nil), ""},
		"certificate, no volume": {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.SignerName = "example.com/other" }), "does not mount a podCertificate projected volume for signer"},
		"certificate, node":      {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeName = "n2" }), "which is not the requesting node"},
		"certificate, node UID":  {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeUID = "x" }), "inconsistent with the running node"},
		"certificate, pod UID":   {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "x" }), "which differs from running pod"},
		"certificate, other pod": {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName, s.PodUID = "other", "other-uid" }), "is not running on node"},
		"certificate, account":   {podCertificate(func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "x" }), "names service account UID"},
		"claim":                  {request{resource: "persistentvolumeclaims", operation: admission.Update, obj: &corev1.PersistentVolumeClaim{}}, "may only update PVC status"},
		"token":                  {tokenOf(token(mine)), ""},
		"token without pod":      {tokenOf(token(nil)), "not bound to a pod"},
		"token for other's pod":  {tokenOf(token(other)), "pod scheduled on a different node"},
		"token of former pod":    {tokenOf(token(placed("mine", "n1", func(p *corev1.Pod) { p.UID = "former" }))), "does not match the UID in record"},
		"token, named audience":  {tokenOf(token(mine, "vault")), ""},
		"token, driver audience": {tokenOf(token(mine, "cloud")), ""},
		"token, other audience":  {tokenOf(token(mine, "bank")), `system:node:n1 is not authorized to request tokens for audience "bank"`},
		"token, two audiences":   {tokenOf(token(mine, "vault", "cloud")), "node may only request 0 or 1 audiences"},
		"lease elsewhere":        {request{resource: "leases.coordination.k8s.io", obj: lease("n1")}, "kube-node-lease"},
		"own csinode":            {request{resource: "csinodes.storage.k8s.io", obj: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}}, ""},
		"other csinode":          {request{resource: "csinodes.storage.k8s.io", obj: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}}, "same name as the requesting node"},
		"own slice":              {request{resource: "resourceslices.resource.k8s.io", obj: slice("n1")}, ""},
		"other slice":            {request{resource: "resourceslices.resource.k8s.io", obj: slice("n2")}, "can only create ResourceSlice"},
		"taken slice":            {request{resource: "resourceslices.resource.k8s.io", operation: admission.Update, obj: slice("n1"), old: slice("n2")}, "can only update ResourceSlice"},
		"deleted slice":          {request{resource: "resourceslices.resource.k8s.io", operation: admission.Delete, old: slice("n2")}, "can only delete ResourceSlice"},
		"nameless node":          {request{resource: "nodes", obj: old, user: &user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}}}, "could not determine node"},
		"no node":                {request{resource: "nodes", operation: admission.Delete, name: "n1", user: &user.DefaultInfo{Name: "admin"}}, ""},
	}
	h := plant(t, nodeRestriction, mine, other, driver, nodeOf("n1", nil, func(n *corev1.Node) { n.UID = "n1-uid" }),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sa-uid"}})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.request.user == nil {
				c.request.user = node1()
			}
			err := h.admit(context.Background(), c.request.attributes())
			if (err == nil) != (c.refused == "") || (err != nil && !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
		})
	}
}

func TestPodOfThatMoment(t *testing.T) {
	of := func(name, node string, uid types.UID) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: uid}, Spec: corev1.PodSpec{NodeName: node}}
	}
	bound := of("p", "n1", "new")
	for name, cached := range map[string]*corev1.Pod{
		"not bound yet": of("p", "", "new"),
		"a former one":  of("p", "n2", "old"),
		"none":          of("other", "n1", "other"),
	} {
		t.Run(name, func(t *testing.T) {
			known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
			if err := known.Add(cached); err != nil {
				t.Fatal(err)
			}
			r := &restriction{dependencies: dependencies{client: fake.NewClientset(bound)}, pods: corelisters.NewPodLister(known).Pods}
			if pod, err := r.pod(t.Context(), "ns", "p", "new"); err != nil || pod.UID != "new" || pod.Spec.NodeName != "n1" {
				t.Errorf("got %v, %v", pod, err)
			}
		})
	}
}
