package certificates

import (
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// podCertificateRequest is a kubelet's request for a certificate for one of its pods.
var podCertificateRequest = resource.Definition[*certificatesv1.PodCertificateRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "PodCertificateRequest", NameOnce: true, Plural: "podcertificaterequests",
	Namespaced: true, HasStatus: true, GenerationOf: resource.NoGeneration[*certificatesv1.PodCertificateRequest],
	Default: func(r *certificatesv1.PodCertificateRequest) {
		resource.SetDefaultPtr(&r.Spec.MaxExpirationSeconds, defaultPodCertificateLife)
	},
	Validate: validatePodRequest,
	ValidateUpdate: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return validate.Immutable(r.Spec, old.Spec, field.NewPath("spec"))
	},
	ValidateStatus: validatePodRequestStatus,
	Fields: map[string]func(*certificatesv1.PodCertificateRequest) string{
		"spec.signerName": func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.SignerName },
		"spec.podName":    func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.PodName },
		"spec.nodeName":   func(r *certificatesv1.PodCertificateRequest) string { return string(r.Spec.NodeName) },
	},
	Columns: resource.Columns([]resource.Column[*certificatesv1.PodCertificateRequest]{
		{Name: "PodName", Get: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.PodName }},
		{Name: "ServiceAccountName", Get: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.ServiceAccountName }},
		{Name: "NodeName", Get: func(r *certificatesv1.PodCertificateRequest) any { return string(r.Spec.NodeName) }},
		{Name: "SignerName", Get: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.SignerName }},
		{Name: "State", Get: func(r *certificatesv1.PodCertificateRequest) any {
			for _, c := range r.Status.Conditions {
				if slices.Contains(podRequestOutcomes, c.Type) {
					return c.Type
				}
			}
			return "Pending"
		}},
	}...),
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
			errs = append(errs, field.Required(uidPath, "must not be empty"))
		case len(uid.value) > 128:
			errs = append(errs, field.TooLong(uidPath, uid.value, 128))
		}
	}
	life := path.Child("maxExpirationSeconds")
	switch {
	case spec.MaxExpirationSeconds == nil:
		errs = append(errs, field.Required(life, "must be set"))
	case *spec.MaxExpirationSeconds < minPodCertificateLife || *spec.MaxExpirationSeconds > maxPodCertificateLife:
		errs = append(errs, field.Invalid(life, *spec.MaxExpirationSeconds,
			fmt.Sprintf("must be in the range [%d, %d]", minPodCertificateLife, maxPodCertificateLife)))
	}
	stub := path.Child("stubPKCS10Request")
	switch {
	case len(spec.StubPKCS10Request) == 0:
		errs = append(errs, field.Required(stub, ""))
	case len(spec.StubPKCS10Request) > maxStubRequest:
		errs = append(errs, field.TooLong(stub, "", maxStubRequest))
	}
	return errs
}

// validatePodRequestStatus lets a signer decide once.
func validatePodRequestStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	path := field.NewPath("status")
	errs := metav1validation.ValidateConditions(r.Status.Conditions, path.Child("conditions"))
	outcomes := 0
	for _, c := range r.Status.Conditions {
		if slices.Contains(podRequestOutcomes, c.Type) {
			outcomes++
		}
	}
	if outcomes > 1 {
		errs = append(errs, field.Invalid(path.Child("conditions"), r.Status.Conditions,
			`There may be at most one condition with type "Issued", "Denied", or "Failed"`))
	}
	if old.Status.CertificateChain != "" {
		errs = append(errs, validate.Immutable(r.Status, old.Status, path)...)
	}
	if r.Status.CertificateChain != "" {
		if err := checkCertificates([]byte(r.Status.CertificateChain)); err != nil {
			errs = append(errs, field.Invalid(path.Child("certificateChain"), "<certificate data>", err.Error()))
		}
	}
	return errs
}
