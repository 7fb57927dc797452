package certificates

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
	// legacyUnknown signs whatever was approved; its certificates are trusted by nothing in particular.
	legacyUnknown = "kubernetes.io/legacy-unknown"
)

// signers says what each built-in signer accepts.
var signers = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName: func(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
		return clientUsages(usages)
	},
	certificatesv1.KubeAPIServerClientKubeletSignerName: kubeletClient,
	certificatesv1.KubeletServingSignerName:             kubeletServing,
	legacyUnknown:                                       func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

func clientUsages(usages []certificatesv1.KeyUsage) error {
	allowed := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) || !subset(usages, allowed) {
		return fmt.Errorf("invalid usages for client certificate: %v", usages)
	}
	return nil
}

// kubeletClient accepts what a kubelet presents to the API server.
func kubeletClient(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodeSubject(request); err != nil {
		return err
	}
	if len(request.DNSNames) > 0 || len(request.IPAddresses) > 0 || len(request.EmailAddresses) > 0 || len(request.URIs) > 0 {
		return errors.New("subject alternative names are not allowed")
	}
	return kubeletUsages(usages, certificatesv1.UsageClientAuth)
}

// kubeletServing accepts what a kubelet presents to those who call it.
func kubeletServing(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodeSubject(request); err != nil {
		return err
	}
	if len(request.DNSNames) == 0 && len(request.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	if len(request.EmailAddresses) > 0 || len(request.URIs) > 0 {
		return errors.New("email and URI subjectAltNames are not allowed")
	}
	return kubeletUsages(usages, certificatesv1.UsageServerAuth)
}

func nodeSubject(request *x509.CertificateRequest) error {
	if len(request.Subject.Organization) != 1 || request.Subject.Organization[0] != nodesGroup {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(request.Subject.CommonName, nodeUserPrefix) {
		return errors.New("subject common name does not begin with system:node:") //nolint:staticcheck // the colon is the prefix's
	}
	return nil
}

// kubeletUsages demands digital signature and the purpose; key encipherment, which only RSA keys need, may stand beside them.
func kubeletUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	required := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose}
	if !subset(required, usages) || !subset(usages, append(required, certificatesv1.UsageKeyEncipherment)) {
		return fmt.Errorf("usages did not match %v", required)
	}
	return nil
}

func subset(some, all []certificatesv1.KeyUsage) bool {
	return !slices.ContainsFunc(some, func(u certificatesv1.KeyUsage) bool { return !slices.Contains(all, u) })
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
	certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extKeyUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
	certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// usagesOf translates the API's names of usages, the extended ones in a fixed order.
func usagesOf(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var plain x509.KeyUsage
	var extended []x509.ExtKeyUsage
	for _, usage := range usages {
		if bit, ok := keyUsages[usage]; ok {
			plain |= bit
		} else if ext, ok := extKeyUsages[usage]; ok {
			if !slices.Contains(extended, ext) {
				extended = append(extended, ext)
			}
		} else {
			return 0, nil, fmt.Errorf("unrecognized usage %q", usage)
		}
	}
	slices.Sort(extended)
	return plain, extended, nil
}
