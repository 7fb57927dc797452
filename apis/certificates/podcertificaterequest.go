package certificates

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// podCertificateRequest is a kubelet's request for a certificate for one of its pods.
var podCertificateRequest = resource.Definition[*certificatesv1.PodCertificateRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "PodCertificateRequest", NameOnce: true, Plural: "podcertificaterequests",
	Namespaced: true, HasStatus: true, StatusFixes: []string{"metadata"}, GenerationOf: resource.NoGeneration[*certificatesv1.PodCertificateRequest],
	Default: func(r *certificatesv1.PodCertificateRequest) {
		resource.SetDefaultPtr(&r.Spec.MaxExpirationSeconds, defaultPodCertificateLife)
	},
	Validate: validatePodRequest,
	ValidateUpdate: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return validate.Immutable(r.Spec, old.Spec, field.NewPath("spec"))
	},
	ValidateStatus: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return validatePodRequestStatus(r, old, time.Now())
	},
	Fields: map[string]func(*certificatesv1.PodCertificateRequest) string{
		"spec.signerName": func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.SignerName },
		"spec.podName":    func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.PodName },
		"spec.nodeName":   func(r *certificatesv1.PodCertificateRequest) string { return string(r.Spec.NodeName) },
	},
	Columns: []resource.Column[*certificatesv1.PodCertificateRequest]{
		resource.NameColumn[*certificatesv1.PodCertificateRequest](),
		podRequestColumn("PodName", "podName", func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.PodName }),
		podRequestColumn("ServiceAccountName", "serviceAccountName", func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.ServiceAccountName }),
		podRequestColumn("NodeName", "nodeName", func(r *certificatesv1.PodCertificateRequest) string { return string(r.Spec.NodeName) }),
		podRequestColumn("SignerName", "signerName", func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.SignerName }),
		{Name: "State", Description: "Is the request Pending, Issued, Denied, or Failed?", Get: func(r *certificatesv1.PodCertificateRequest) any {
			return cmp.Or(podRequestOutcome(&r.Status), "Pending")
		}},
		podRequestColumn("UnverifiedUserAnnotations", "unverifiedUserAnnotations", func(r *certificatesv1.PodCertificateRequest) string {
			return labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)
		}),
	},
}

func podRequestColumn(name, of string, get func(*certificatesv1.PodCertificateRequest) string) resource.Column[*certificatesv1.PodCertificateRequest] {
	return resource.Column[*certificatesv1.PodCertificateRequest]{
		Name: name, Description: certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()[of],
		Get: func(r *certificatesv1.PodCertificateRequest) any { return get(r) },
	}
}

const (
	defaultPodCertificateLife int32 = 86400 // seconds
	minPodCertificateLife     int32 = 3600
	maxPodCertificateLife     int32 = 91 * 86400
	maxStubRequest                  = 10 << 10 // bytes
)

var podRequestOutcomes = []string{
	certificatesv1.PodCertificateRequestConditionTypeIssued,
	certificatesv1.PodCertificateRequestConditionTypeDenied,
	certificatesv1.PodCertificateRequestConditionTypeFailed,
}

func validatePodRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	spec, path := &r.Spec, field.NewPath("spec")
	errs := ValidateSignerName(path.Child("signerName"), spec.SignerName)
	for _, name := range []struct{ field, value string }{
		{"podName", spec.PodName}, {"serviceAccountName", spec.ServiceAccountName}, {"nodeName", string(spec.NodeName)},
	} {
		errs = append(errs, validate.ObjectName(name.value, path.Child(name.field), apivalidation.NameIsDNSSubdomain)...)
	}
	for _, uid := range []struct{ field, value string }{
		{"podUID", string(spec.PodUID)}, {"serviceAccountUID", string(spec.ServiceAccountUID)}, {"nodeUID", string(spec.NodeUID)},
	} {
		switch uidPath := path.Child(uid.field); {
		case uid.value == "":
			errs = append(errs, field.Invalid(uidPath, "", "must not be empty"))
		case len(uid.value) > 128:
			errs = append(errs, field.TooLong(uidPath, uid.value, 128))
		}
	}
	errs = append(errs, ValidateUserAnnotations(spec.UnverifiedUserAnnotations, path.Child("unverifiedUserAnnotations"))...)
	life, longest := path.Child("maxExpirationSeconds"), LongestPodCertificateLife(spec.SignerName)
	switch {
	case spec.MaxExpirationSeconds == nil:
		return append(errs, field.Required(life, "must be set"))
	case *spec.MaxExpirationSeconds < minPodCertificateLife || *spec.MaxExpirationSeconds > longest:
		errs = append(errs, field.Invalid(life, *spec.MaxExpirationSeconds, fmt.Sprintf("must be in the range [%d, %d]", minPodCertificateLife, longest)))
	}
	if len(spec.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(path, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
	}
	if err := stubError(spec.StubPKCS10Request, path.Child("stubPKCS10Request")); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// ValidateUserAnnotations checks what a pod's author tells the signer of its certificate: keys with a domain, of no case.
func ValidateUserAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		errs = append(errs, validation.IsDomainPrefixedKey(path, strings.ToLower(key))...)
	}
	if apivalidation.ValidateAnnotationsSize(annotations) != nil {
		errs = append(errs, field.TooLong(path, "", apivalidation.TotalAnnotationSizeLimitB))
	}
	return errs
}

// LongestPodCertificateLife is in seconds: a day for the signers of Kubernetes itself.
func LongestPodCertificateLife(signer string) int32 {
	if domain, _, _ := strings.Cut(signer, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		return 86400
	}
	return maxPodCertificateLife
}

// stubError tells what is wrong with the request that proves that the kubelet holds the key. Nothing but the key counts in it.
func stubError(stub []byte, path *field.Path) *field.Error {
	if len(stub) > maxStubRequest {
		return field.TooLong(path, stub, maxStubRequest)
	}
	request, err := x509.ParseCertificateRequest(stub)
	if err != nil {
		return field.Invalid(path, field.OmitValueType{}, "must be a valid PKCS#10 CSR")
	}
	switch key := request.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return field.Invalid(path, "curve "+key.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521")
		}
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return field.Invalid(path, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")
		}
	default:
		return field.Invalid(path, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")
	}
	if request.CheckSignature() != nil {
		return field.Invalid(path, field.OmitValueType{}, "invalid signature")
	}
	return nil
}
