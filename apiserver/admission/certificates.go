package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"keelson.dev/apiserver/authorization/rbac"
)

// certificateApproval lets only those approve a request who may approve for its signer.
func certificateApproval(d dependencies) hooks {
	return hooks{validate: func(ctx context.Context, a admission.Attributes) error {
		if a.GetSubresource() != "approval" {
			return nil
		}
		request, err := oldOf[*certificatesv1.CertificateSigningRequest](a)
		if err != nil {
			return err
		}
		if !MayForSigner(ctx, d.authorizer, a.GetUserInfo(), "approve", request.Spec.SignerName) {
			return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", request.Spec.SignerName))
		}
		return nil
	}}
}

// certificateSigning lets only those issue or fail a request who may sign for its signer.
func certificateSigning(d dependencies) hooks {
	return hooks{validate: func(ctx context.Context, a admission.Attributes) error {
		if a.GetSubresource() != "status" {
			return nil
		}
		old, err := oldOf[*certificatesv1.CertificateSigningRequest](a)
		if err != nil {
			return err
		}
		request, err := objectOf[*certificatesv1.CertificateSigningRequest](a)
		if err != nil {
			return err
		}
		if reflect.DeepEqual(old.Status.Certificate, request.Status.Certificate) && reflect.DeepEqual(old.Status.Conditions, request.Status.Conditions) {
			return nil
		}
		if !MayForSigner(ctx, d.authorizer, a.GetUserInfo(), "sign", old.Spec.SignerName) {
			return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
		}
		return nil
	}}
}

// subjectRestriction refuses requests for client certificates of system:masters, which nothing could revoke.
func subjectRestriction(dependencies) hooks {
	return hooks{validate: func(_ context.Context, a admission.Attributes) error {
		request, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
		if !ok || !mainResource(a) || request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		parsed, err := parseRequest(request.Spec.Request)
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
		}
		if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
			return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
		}
		return nil
	}}
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// trustBundleAttest lets only those publish trust anchors of a signer who may attest for it.
func trustBundleAttest(d dependencies) hooks {
	return hooks{validate: func(ctx context.Context, a admission.Attributes) error {
		signer, ok := bundleSigner(a.GetObject())
		if !ok || !mainResource(a) || signer == "" {
			return nil
		}
		if a.GetOperation() == admission.Update && rbac.OnlyGarbageCollection(a.GetObject(), a.GetOldObject()) {
			return nil
		}
		if !MayForSigner(ctx, d.authorizer, a.GetUserInfo(), "attest", signer) {
			return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", signer))
		}
		return nil
	}}
}

func bundleSpec(obj any) any {
	switch bundle := obj.(type) {
	case *certificatesv1.ClusterTrustBundle:
		return bundle.Spec
	case *certificatesv1beta1.ClusterTrustBundle:
		return bundle.Spec
	}
	return nil
}

func bundleSigner(obj any) (string, bool) {
	switch spec := bundleSpec(obj).(type) {
	case certificatesv1.ClusterTrustBundleSpec:
		return spec.SignerName, true
	case certificatesv1beta1.ClusterTrustBundleSpec:
		return spec.SignerName, true
	}
	return "", false
}

// MayForSigner tells whether a user may do something (sign, approve, attest) for a signer: it asks about the signer itself, then about all signers of its domain.
func MayForSigner(ctx context.Context, auth authorizer.UnconditionalAuthorizer, who user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := auth.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}
