package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"
)

func TestDefaultClasses(t *testing.T) {
	at := func(name, annotation string, minute int) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)),
			Annotations: map[string]string{annotation: "true"},
		}
	}
	h := plant(t, defaultStorageClass, &storagev1.StorageClass{ObjectMeta: at("old", defaultClass, 1)}, &storagev1.StorageClass{ObjectMeta: at("new", defaultClass, 2)},
		&storagev1.StorageClass{ObjectMeta: at("same", defaultClass, 2)}, &storagev1.StorageClass{ObjectMeta: at("other", "x", 3)})
	for name, c := range map[string]struct{ class, want *string }{
		"newest": {nil, new("new")}, "none on purpose": {new(""), new("")}, "own": {new("own"), new("own")},
	} {
		claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: c.class}}
		if err := h.admit(context.Background(), request{resource: "persistentvolumeclaims", obj: claim}.attributes()); err != nil {
			t.Fatal(err)
		}
		if got := ptr.Deref(claim.Spec.StorageClassName, "nil"); got != *c.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
	h = plant(t, defaultIngressClass, &networkingv1.IngressClass{ObjectMeta: at("def", networkingv1.AnnotationIsDefaultIngressClass, 1)})
	ingress := &networkingv1.Ingress{}
	if err := h.admit(context.Background(), request{resource: "ingresses.networking.k8s.io", obj: ingress}.attributes()); err != nil || ptr.Deref(ingress.Spec.IngressClassName, "") != "def" {
		t.Errorf("ingress: %v %v", ingress.Spec.IngressClassName, err)
	}
}

func TestClaimResize(t *testing.T) {
	growing := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "grow"}, AllowVolumeExpansion: new(true)}
	fixed := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fixed"}}
	claim := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	h := plant(t, claimResize, growing, fixed)
	for name, c := range map[string]struct {
		obj, old *corev1.PersistentVolumeClaim
		allowed  bool
	}{
		"grows":     {claim("grow", "2Gi", "Bound"), claim("grow", "1Gi", "Bound"), true},
		"unbound":   {claim("grow", "2Gi", "Pending"), claim("grow", "1Gi", "Pending"), false},
		"fixed":     {claim("fixed", "2Gi", "Bound"), claim("fixed", "1Gi", "Bound"), false},
		"same size": {claim("fixed", "1Gi", "Bound"), claim("fixed", "1Gi", "Bound"), true},
		"classless": {claim("", "2Gi", "Bound"), claim("", "1Gi", "Bound"), false},
	} {
		err := h.validate(context.Background(), request{resource: "persistentvolumeclaims", operation: admission.Update, obj: c.obj, old: c.old}.attributes())
		if (err == nil) != c.allowed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStorageProtection(t *testing.T) {
	h := plant(t, storageProtection)
	for want, obj := range map[string]runtime.Object{
		claimProtection: &corev1.PersistentVolumeClaim{}, volumeProtect: &corev1.PersistentVolume{}, classProtection: &storagev1.VolumeAttributesClass{},
	} {
		for range 2 { // adding it again changes nothing
			if err := h.admit(context.Background(), request{resource: "x", obj: obj}.attributes()); err != nil {
				t.Fatal(err)
			}
		}
		if got := obj.(metav1.Object).GetFinalizers(); len(got) != 1 || got[0] != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

func csr(t *testing.T, signer, name string, groups ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}}
}

func TestCertificates(t *testing.T) {
	ours, foreign := csr(t, "example.com/x", "a"), csr(t, "other.com/x", "a")
	signed := foreign.DeepCopy()
	signed.Status.Certificate = []byte("x")
	bundle := func(signer, text string) runtime.Object {
		return &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
	}
	const csrs = "certificatesigningrequests.certificates.k8s.io"
	update := func(sub string, obj, old runtime.Object) request {
		return request{resource: csrs, subresource: sub, operation: admission.Update, obj: obj, old: old}
	}
	admin := &user.DefaultInfo{Name: "signer-admin"}
	cases := map[string]struct {
		build   func(dependencies) hooks
		request request
		user    user.Info
		refused string
	}{
		"approve by domain":   {certificateApproval, update("approval", ours, ours), admin, ""},
		"approve foreign":     {certificateApproval, update("approval", foreign, foreign), admin, `user not permitted to approve requests with signerName "other.com/x"`},
		"approve as anyone":   {certificateApproval, update("approval", ours, ours), nil, "user not permitted to approve"},
		"edit is no approval": {certificateApproval, update("", foreign, foreign), nil, ""},
		"sign foreign":        {certificateSigning, update("status", signed, foreign), admin, `user not permitted to sign requests with signerName "other.com/x"`},
		"status untouched":    {certificateSigning, update("status", foreign, foreign), nil, ""},
		"masters":             {subjectRestriction, request{resource: csrs, obj: csr(t, certificatesv1.KubeAPIServerClientSignerName, "x", "system:masters")}, nil, "system:masters group is not allowed"},
		"no masters":          {subjectRestriction, request{resource: csrs, obj: csr(t, certificatesv1.KubeAPIServerClientSignerName, "x", "devs")}, nil, ""},
		"attest":              {trustBundleAttest, request{resource: "x", obj: bundle("example.com/x", "a")}, admin, ""},
		"attest foreign":      {trustBundleAttest, request{resource: "x", obj: bundle("other.com/x", "a")}, admin, "user not permitted to attest"},
		"signerless bundle":   {trustBundleAttest, request{resource: "x", obj: bundle("", "a")}, nil, ""},
		"bundle unchanged":    {trustBundleAttest, request{resource: "x", operation: admission.Update, obj: bundle("other.com/x", "a"), old: bundle("other.com/x", "a")}, nil, ""},
		"node for itself":     {nodeRestriction, request{resource: csrs, obj: csr(t, certificatesv1.KubeletServingSignerName, "system:node:n1", "system:nodes")}, node1(), ""},
		"node for another":    {nodeRestriction, request{resource: csrs, obj: csr(t, certificatesv1.KubeletServingSignerName, "system:node:n2", "system:nodes")}, node1(), "can only create a node CSR with CN=system:node:n1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.request.user = c.user
			err := plant(t, c.build).both(context.Background(), c.request.attributes())
			if (err == nil) != (c.refused == "") || (err != nil && !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
		})
	}
}
