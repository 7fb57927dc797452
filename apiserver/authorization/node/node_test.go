package node

import (
	"context"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func authorizerWithPods(t *testing.T) *Authorizer {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	a, err := New(factory)
	if err != nil {
		t.Fatal(err)
	}
	claim := "claim"
	pod := func(name, node string, mirror bool) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec: corev1.PodSpec{
				NodeName: node, ServiceAccountName: name + "-sa",
				ImagePullSecrets: []corev1.LocalObjectReference{{Name: name + "-pull"}},
				Containers: []corev1.Container{{
					EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name + "-env"}}}},
					Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
						LocalObjectReference: corev1.LocalObjectReference{Name: name + "-key"},
					}}}},
				}},
				Volumes: []corev1.Volume{
					{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name + "-vol"}}},
					{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
					{Name: "p", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name + "-pvc"}}},
				},
				ResourceClaims: []corev1.PodResourceClaim{{ResourceClaimName: &claim}},
			},
		}
		if mirror {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
		}
		return p
	}
	add := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	pods := factory.Core().V1().Pods().Informer().GetIndexer()
	add(pods.Add(pod("one", "n1", false)))
	add(pods.Add(pod("two", "n2", false)))
	add(pods.Add(pod("static", "n1", true)))
	add(factory.Core().V1().PersistentVolumes().Informer().GetIndexer().Add(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "one-pvc"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "csi", Name: "stage"},
			}},
		},
	}))
	add(factory.Storage().V1().VolumeAttachments().Informer().GetIndexer().Add(&storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"},
	}))
	for _, node := range []string{"n1", "n2"} {
		add(factory.Resource().V1().ResourceSlices().Informer().GetIndexer().Add(&resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "slice-" + node}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node},
		}))
		add(factory.Certificates().V1().PodCertificateRequests().Informer().GetIndexer().Add(&certificatesv1.PodCertificateRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pcr-" + node}, Spec: certificatesv1.PodCertificateRequestSpec{NodeName: types.NodeName(node)},
		}))
	}
	add(factory.Resource().V1().ResourceSlices().Informer().GetIndexer().Add(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice-of-all"}}))
	return a
}

func TestAuthorize(t *testing.T) {
	a := authorizerWithPods(t)
	type request = authorizer.AttributesRecord
	of := func(verb, group, resource, sub, namespace, name string) request {
		return request{Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name}
	}
	selecting := func(r request, field, value string) request {
		r.FieldSelectorRequirements = fields.Set{field: value}.AsSelector().Requirements()
		return r
	}
	cases := map[string]struct {
		request request
		want    bool // for node n1
	}{
		"secret of env":              {of("get", "", "secrets", "", "ns", "one-key"), true},
		"secret of volume, watched":  {of("watch", "", "secrets", "", "ns", "one-vol"), true},
		"secret for pulling":         {of("get", "", "secrets", "", "ns", "one-pull"), true},
		"secret of other node":       {of("get", "", "secrets", "", "ns", "two-key"), false},
		"secret of other namespace":  {of("get", "", "secrets", "", "else", "one-key"), false},
		"all secrets":                {of("list", "", "secrets", "", "ns", ""), false},
		"secret written":             {of("update", "", "secrets", "", "ns", "one-key"), false},
		"secret of static pod":       {of("get", "", "secrets", "", "ns", "static-vol"), false},
		"secret of volume driver":    {of("get", "", "secrets", "", "csi", "stage"), true},
		"config map":                 {of("get", "", "configmaps", "", "ns", "one-env"), true},
		"config map of other":        {of("get", "", "configmaps", "", "ns", "two-env"), false},
		"claim":                      {of("get", "", "persistentvolumeclaims", "", "ns", "one-pvc"), true},
		"ephemeral claim":            {of("get", "", "persistentvolumeclaims", "", "ns", "one-e"), true},
		"claim status":               {of("patch", "", "persistentvolumeclaims", "status", "ns", "one-pvc"), true},
		"claim of other":             {of("get", "", "persistentvolumeclaims", "", "ns", "two-pvc"), false},
		"volume":                     {of("get", "", "persistentvolumes", "", "", "pv"), true},
		"volumes":                    {of("list", "", "persistentvolumes", "", "", ""), false},
		"attachment":                 {of("get", "storage.k8s.io", "volumeattachments", "", "", "va"), true},
		"resource claim":             {of("get", "resource.k8s.io", "resourceclaims", "", "ns", "claim"), true},
		"token":                      {of("create", "", "serviceaccounts", "token", "ns", "one-sa"), true},
		"token of other":             {of("create", "", "serviceaccounts", "token", "ns", "two-sa"), false},
		"own node":                   {of("get", "", "nodes", "", "", "n1"), true},
		"other node":                 {of("get", "", "nodes", "", "", "n2"), false},
		"all nodes":                  {of("list", "", "nodes", "", "", ""), false},
		"register":                   {of("create", "", "nodes", "", "", ""), true},
		"node status":                {of("patch", "", "nodes", "status", "", "n1"), true},
		"delete node":                {of("delete", "", "nodes", "", "", "n1"), false},
		"own pods":                   {selecting(of("watch", "", "pods", "", "", ""), "spec.nodeName", "n1"), true},
		"pods of other":              {selecting(of("list", "", "pods", "", "", ""), "spec.nodeName", "n2"), false},
		"all pods":                   {of("list", "", "pods", "", "", ""), false},
		"own pod":                    {of("get", "", "pods", "", "ns", "one"), true},
		"pod of other":               {of("get", "", "pods", "", "ns", "two"), false},
		"pod status":                 {of("patch", "", "pods", "status", "ns", "one"), true},
		"bind":                       {of("create", "", "pods", "binding", "ns", "one"), false},
		"own lease":                  {of("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"), true},
		"other lease":                {of("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2"), false},
		"lease elsewhere":            {of("update", "coordination.k8s.io", "leases", "", "kube-system", "n1"), false},
		"own csinode":                {of("get", "storage.k8s.io", "csinodes", "", "", "n1"), true},
		"other csinode":              {of("get", "storage.k8s.io", "csinodes", "", "", "n2"), false},
		"own slices":                 {selecting(of("deletecollection", "resource.k8s.io", "resourceslices", "", "", ""), "spec.nodeName", "n1"), true},
		"all slices":                 {of("list", "resource.k8s.io", "resourceslices", "", "", ""), false},
		"own slice":                  {of("update", "resource.k8s.io", "resourceslices", "", "", "slice-n1"), true},
		"slice of other":             {of("update", "resource.k8s.io", "resourceslices", "", "", "slice-n2"), false},
		"slice of other, read":       {of("get", "resource.k8s.io", "resourceslices", "", "", "slice-n2"), false},
		"slice of all nodes":         {of("delete", "resource.k8s.io", "resourceslices", "", "", "slice-of-all"), false},
		"new slice":                  {of("create", "resource.k8s.io", "resourceslices", "", "", ""), true},
		"own certificate request":    {of("get", "certificates.k8s.io", "podcertificaterequests", "", "ns", "pcr-n1"), true},
		"certificate of other node":  {of("get", "certificates.k8s.io", "podcertificaterequests", "", "ns", "pcr-n2"), false},
		"certificate request, wrote": {of("delete", "certificates.k8s.io", "podcertificaterequests", "", "ns", "pcr-n1"), false},
		"services, by the rules":     {of("list", "", "services", "", "", ""), true},
		"deployments, not":           {of("list", "apps", "deployments", "", "", ""), false},
		"runtime classes, by rules":  {of("watch", "node.k8s.io", "runtimeclasses", "", "", ""), true},
		"csr":                        {of("create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""), true},
		"own certificate requests":   {selecting(of("list", "certificates.k8s.io", "podcertificaterequests", "", "", ""), "spec.nodeName", "n1"), true},
		"other certificate requests": {of("list", "certificates.k8s.io", "podcertificaterequests", "", "", ""), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.request.ResourceRequest = true
			c.request.User = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
			decision, reason, err := a.Authorize(context.Background(), c.request)
			if err != nil || (decision == authorizer.DecisionAllow) != c.want {
				t.Errorf("got %v %q %v", decision, reason, err)
			}
			// The same request of someone who is no node is none of its business.
			c.request.User = &user.DefaultInfo{Name: "system:node:n1"}
			if decision, _, _ := a.Authorize(context.Background(), c.request); decision != authorizer.DecisionNoOpinion {
				t.Errorf("outside of system:nodes: got %v", decision)
			}
		})
	}
}
