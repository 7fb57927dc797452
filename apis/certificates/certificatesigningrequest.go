package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// certificateSigningRequest asks a signer for a certificate. Package apiserver fills in who asked (spec.username, uid, groups and
// extra) before validation, for only it knows the user, and serves /approval with PrepareApproval and ValidateApproval.
var certificateSigningRequest = resource.Definition[*certificatesv1.CertificateSigningRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests",
	ShortNames: []string{"csr"}, HasStatus: true, GenerationOf: resource.NoGeneration[*certificatesv1.CertificateSigningRequest],
	AllowUnconditionalUpdate: true, Unowned: []string{"spec"},
	// Kubelets name theirs by a hash with capitals in it: any name goes that can stand in a path.
	ValidateName: func(string, bool) []string { return nil },
	Prepare: func(csr, old *certificatesv1.CertificateSigningRequest) {
		if old != nil {
			csr.Spec = old.Spec
		}
	},
	PrepareStatus: prepareRequestStatus,
	Validate:      validateRequest,
	ValidateUpdate: func(csr, _ *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return validateRequestConditions(csr, false)
	},
	ValidateStatus: validateRequestStatus,
	Fields: map[string]func(*certificatesv1.CertificateSigningRequest) string{
		"spec.signerName": func(csr *certificatesv1.CertificateSigningRequest) string { return csr.Spec.SignerName },
	},
	Columns: []resource.Column[*certificatesv1.CertificateSigningRequest]{
		resource.NameColumn[*certificatesv1.CertificateSigningRequest](),
		resource.AgeColumn[*certificatesv1.CertificateSigningRequest](),
		{Name: "SignerName", Description: requestDoc("signerName"), Get: func(csr *certificatesv1.CertificateSigningRequest) any {
			return csr.Spec.SignerName
		}},
		{Name: "Requestor", Description: requestDoc("request"), Get: func(csr *certificatesv1.CertificateSigningRequest) any {
			return csr.Spec.Username
		}},
		{Name: "RequestedDuration", Description: requestDoc("expirationSeconds"), Get: func(csr *certificatesv1.CertificateSigningRequest) any {
			if csr.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*csr.Spec.ExpirationSeconds) * time.Second)
		}},
		{Name: "Condition", Description: certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"], Get: func(csr *certificatesv1.CertificateSigningRequest) any {
			return requestState(csr)
		}},
	},
}

func requestDoc(name string) string {
	return certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()[name] // as upstream does
}

func hasCondition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == kind
	})
}

func requestState(csr *certificatesv1.CertificateSigningRequest) string {
	state := "Pending"
	switch {
	case hasCondition(csr, certificatesv1.CertificateDenied):
		state = "Denied"
	case hasCondition(csr, certificatesv1.CertificateApproved):
		state = "Approved"
	}
	if hasCondition(csr, certificatesv1.CertificateFailed) {
		state += ",Failed"
	}
	if len(csr.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

// prepareRequestStatus keeps signers from approving: of the conditions they may only change those that are no decision.
func prepareRequestStatus(csr, old *certificatesv1.CertificateSigningRequest) {
	isDecision := func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied
	}
	var conditions []certificatesv1.CertificateSigningRequestCondition
	for _, c := range old.Status.Conditions {
		if isDecision(c) {
			conditions = append(conditions, c)
		}
	}
	for _, c := range csr.Status.Conditions {
		if !isDecision(c) {
			conditions = append(conditions, c)
		}
	}
	csr.Status.Conditions = conditions
	stampConditions(csr, old)
}

// PrepareApproval is for updates of /approval: nothing but the conditions may change.
func PrepareApproval(csr, old *certificatesv1.CertificateSigningRequest) {
	csr.Spec = old.Spec
	csr.Status.Certificate = old.Status.Certificate
	stampConditions(csr, old)
}

// stampConditions sets the times that clients left out.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, former := range old.Status.Conditions {
			if former.Type == c.Type && former.Status == c.Status && !former.LastTransitionTime.IsZero() {
				c.LastTransitionTime = former.LastTransitionTime
			}
		}
	}
}

const legacyUnknownSigner = "kubernetes.io/legacy-unknown"

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCRLSign, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
	certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageMicrosoftSGC,
	certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth,
	certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

func validateRequest(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if _, err := parseRequest(csr.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), csr.Spec.Request, fmt.Sprintf("%v", err)))
	}
	usages := path.Child("usages")
	if len(csr.Spec.Usages) == 0 {
		errs = append(errs, field.Required(usages, ""))
	}
	for i, usage := range csr.Spec.Usages {
		errs = append(errs, validate.OneOf(usage, usages.Index(i), slices.Sorted(slices.Values(keyUsages))...)...)
		if slices.Contains(csr.Spec.Usages[:i], usage) {
			errs = append(errs, field.Duplicate(usages.Index(i), usage))
		}
	}
	signer := path.Child("signerName")
	if csr.Spec.SignerName == legacyUnknownSigner {
		errs = append(errs, field.Invalid(signer, csr.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, ValidateSignerName(signer, csr.Spec.SignerName)...)
	}
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil && *seconds < 600 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *seconds, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateRequestConditions(csr, false)...)
}

// parseRequest reads the PEM block of a request and checks that whoever asks holds the key.
func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

// validateRequestConditions checks the conditions on their own; both decisions at once are an error only where one is made.
func validateRequestConditions(csr *certificatesv1.CertificateSigningRequest, deciding bool) field.ErrorList {
	path := field.NewPath("status", "conditions")
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range csr.Status.Conditions {
		conditionPath := path.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(conditionPath.Child("type"), ""))
		}
		statusPath := conditionPath.Child("status")
		switch {
		case c.Status == "":
			errs = append(errs, field.Required(statusPath, ""))
		case c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed:
			errs = append(errs, validate.OneOf(c.Status, statusPath, corev1.ConditionTrue)...)
		default:
			errs = append(errs, validate.OneOf(c.Status, statusPath, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
		if seen[c.Type] {
			errs = append(errs, field.Duplicate(conditionPath.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	if deciding && seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(path, csr.Status.Conditions, "Approved and Denied conditions are mutually exclusive"))
	}
	return errs
}

// ValidateApproval checks an update of /approval: a decision stands.
func ValidateApproval(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	path := field.NewPath("status", "conditions")
	errs := validateRequestConditions(csr, true)
	for _, decision := range []certificatesv1.RequestConditionType{
		certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed,
	} {
		if hasCondition(old, decision) && !hasCondition(csr, decision) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", decision)))
		}
	}
	return errs
}

func validateRequestStatus(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	path := field.NewPath("status", "certificate")
	errs := validateRequestConditions(csr, false)
	if hasCondition(old, certificatesv1.CertificateFailed) && !hasCondition(csr, certificatesv1.CertificateFailed) {
		errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"),
			fmt.Sprintf("updates may not remove a condition of type %q", certificatesv1.CertificateFailed)))
	}
	if len(old.Status.Certificate) > 0 && !bytes.Equal(csr.Status.Certificate, old.Status.Certificate) {
		return append(errs, field.Forbidden(path, "updates may not set certificate content differently"))
	}
	if len(csr.Status.Certificate) > 0 {
		if err := checkCertificates(csr.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(path, "<certificate data>", err.Error()))
		}
	}
	return errs
}

// checkCertificates demands nothing but PEM blocks of certificates, at least one, without headers.
func checkCertificates(data []byte) error {
	found := false
	for rest := data; ; {
		block, next := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = next
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certificates) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		found = true
	}
	if !found {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
