package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxCertificateChain = 100 << 10 // bytes
	minCertificateLife  = time.Hour
	// refreshMargin is how far the time of renewal lies from both ends of a certificate's life.
	refreshMargin = 10 * time.Minute
	// clockSkew is how far the begin of a new certificate's life may be from now.
	clockSkew = 5 * time.Minute
)

// podRequestOutcome is the condition by which a signer has decided; empty: it has not.
func podRequestOutcome(status *certificatesv1.PodCertificateRequestStatus) string {
	for _, c := range status.Conditions {
		if c.Status == metav1.ConditionTrue && slices.Contains(podRequestOutcomes, c.Type) {
			return c.Type
		}
	}
	return ""
}

// validatePodRequestStatus lets a signer decide once: deny or fail the request, or issue a certificate (KEP-4317).
func validatePodRequestStatus(r, old *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	path := field.NewPath("status")
	errs := validatePodRequestConditions(r.Status.Conditions)
	if len(errs) > 0 {
		return errs
	}
	same := func(want certificatesv1.PodCertificateRequestStatus, message string) field.ErrorList {
		if apiequality.Semantic.DeepEqual(r.Status, want) {
			return nil
		}
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, message)}
	}
	if podRequestOutcome(&old.Status) != "" {
		return same(old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	}
	switch podRequestOutcome(&r.Status) {
	case "":
		return same(old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	case certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(&r.Status, &old.Spec, now)
	}
	return same(certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions},
		"non-condition status fields must be empty when denying or failing the PodCertificateRequest")
}

func validatePodRequestConditions(conditions []metav1.Condition) field.ErrorList {
	var errs field.ErrorList
	for i, c := range conditions {
		at := field.NewPath("status", "conditions", fmt.Sprintf("[%d]", i)) // with a dot before the bracket, as upstream has it
		if !slices.Contains(podRequestOutcomes, c.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, podRequestOutcomes))
			continue
		}
		if slices.ContainsFunc(conditions[:i], func(c metav1.Condition) bool { return slices.Contains(podRequestOutcomes, c.Type) }) {
			errs = append(errs, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	return append(errs, metav1validation.ValidateConditions(conditions, field.NewPath("status", "conditions"))...)
}

// validateIssued checks a certificate against what was asked for.
func validateIssued(status *certificatesv1.PodCertificateRequestStatus, spec *certificatesv1.PodCertificateRequestSpec, now time.Time) field.ErrorList {
	chain := field.NewPath("status", "certificateChain")
	if len(status.CertificateChain) > maxCertificateChain {
		return field.ErrorList{field.TooLong(chain, status.CertificateChain, maxCertificateChain)}
	}
	leaf, rest, message := leafOf(status.CertificateChain)
	if message != "" {
		return field.ErrorList{field.Invalid(chain, status.CertificateChain, message)}
	}
	errs := validateLeafNames(leaf, chain)
	asked, err := x509.ParseCertificateRequest(spec.StubPKCS10Request)
	if err != nil {
		return append(errs, field.Invalid(field.NewPath("spec", "stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR"))
	}
	if key, ok := asked.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && !key.Equal(leaf.PublicKey) {
		return append(errs, field.Invalid(chain, status.CertificateChain, "leaf certificate was not issued to the requested public key"))
	}
	if errs = append(errs, validateLife(status, leaf, *spec.MaxExpirationSeconds, now)...); len(errs) > 0 {
		return errs
	}
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return field.ErrorList{field.Invalid(chain, status.CertificateChain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return field.ErrorList{field.Invalid(chain, status.CertificateChain, "intermediate certificate does not parse as valid X.509")}
		}
	}
	return nil
}

// leafOf returns the first certificate of a chain and what follows it, or what is wrong with it.
func leafOf(chain string) (leaf *x509.Certificate, rest []byte, message string) {
	block, rest := pem.Decode([]byte(chain))
	switch {
	case block == nil:
		return nil, nil, "issued certificate chain must contain at least one certificate"
	case block.Type != "CERTIFICATE":
		return nil, nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, "leaf certificate does not parse as valid X.509"
	}
	return leaf, rest, ""
}

func validateLeafNames(leaf *x509.Certificate, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range leaf.DNSNames {
		if name == "" {
			errs = append(errs, field.Invalid(path, name, "leaf certificate should not contain empty DNSName"))
		}
		if strings.Contains(name, "..") {
			errs = append(errs, field.Invalid(path, name, "leaf certificate's DNSName should not contain '..'"))
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			errs = append(errs, field.Invalid(path, name, "leaf certificate's DNSName should not start or end with '.'"))
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			errs = append(errs, field.Invalid(path, address, "leaf certificate should not contain invalid EmailAddress"))
		}
	}
	return errs
}

// validateLife checks the times of the status against those in the certificate; longest is in seconds.
func validateLife(status *certificatesv1.PodCertificateRequestStatus, leaf *x509.Certificate, longest int32, now time.Time) field.ErrorList {
	path := field.NewPath("status")
	begin, end, refresh := path.Child("notBefore"), path.Child("notAfter"), path.Child("beginRefreshAt")
	var errs field.ErrorList
	for _, f := range []struct {
		path    *field.Path
		value   *metav1.Time
		message string
	}{
		{begin, status.NotBefore, "must be present and consistent with the issued certificate"},
		{end, status.NotAfter, "must be present and consistent with the issued certificate"},
		{refresh, status.BeginRefreshAt, "must be present and in the range [notbefore+10min, notafter-10min]"},
	} {
		if f.value == nil {
			errs = append(errs, field.Required(f.path, f.message))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	one := func(path *field.Path, value any, message string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, value, message)}
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch notBefore, notAfter, at := status.NotBefore.Time, status.NotAfter.Time, status.BeginRefreshAt.Time; {
	case !notBefore.Equal(leaf.NotBefore):
		return one(begin, notBefore, "must be set to the NotBefore time encoded in the leaf certificate")
	case notBefore.Sub(now).Abs() >= clockSkew:
		return one(begin, notBefore, "must be set to within 5 minutes of kube-apiserver's current time")
	case !notAfter.Equal(leaf.NotAfter):
		return one(end, notAfter, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < minCertificateLife:
		return one(path.Child("certificateChain"), life, "leaf certificate lifetime must be >= 1 hour")
	case life > time.Duration(longest)*time.Second:
		return one(path.Child("certificateChain"), life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", longest))
	case at.Before(notBefore.Add(refreshMargin)):
		return one(refresh, at, "must be at least 10 minutes after status.notBefore")
	case at.After(notAfter.Add(-refreshMargin)):
		return one(refresh, at, "must be at least 10 minutes before status.notAfter")
	}
	return nil
}
