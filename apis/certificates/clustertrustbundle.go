package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// clusterTrustBundle is a set of root certificates for pods.
var clusterTrustBundle = resource.Definition[*certificatesv1.ClusterTrustBundle]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "ClusterTrustBundle", Plural: "clustertrustbundles",
	ValidateName: func(string, bool) []string { return nil }, // it depends on the signer
	Validate: func(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
		return append(validateTrustBundle(b), validateAnchors(b.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
	},
	ValidateUpdate: func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
		errs := validateTrustBundle(b)
		if b.Spec.TrustBundle != old.Spec.TrustBundle { // else it may be what another version of Go's library read
			errs = append(errs, validateAnchors(b.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
		}
		return append(errs, validate.Immutable(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	},
	Fields: map[string]func(*certificatesv1.ClusterTrustBundle) string{
		"spec.signerName": func(b *certificatesv1.ClusterTrustBundle) string { return b.Spec.SignerName },
	},
	Columns: []resource.Column[*certificatesv1.ClusterTrustBundle]{
		resource.NameColumn[*certificatesv1.ClusterTrustBundle](),
		{Name: "SignerName", Description: certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"], Get: func(b *certificatesv1.ClusterTrustBundle) any {
			if b.Spec.SignerName == "" {
				return "<none>"
			}
			return b.Spec.SignerName
		}},
	},
}

// bundleName checks that a bundle of a signer is named after it, with colons for slashes: example.com:signer:rest.
func bundleName(name string, prefix bool, signer string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return apivalidation.NameIsDNSSubdomain(name, prefix)
	}
	rest, found := strings.CutPrefix(name, strings.ReplaceAll(signer, "/", ":")+":")
	if !found {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s:", signer, strings.ReplaceAll(signer, "/", ":"))}
	}
	return apivalidation.NameIsDNSSubdomain(rest, prefix)
}

// ValidateTrustBundleName tells what is wrong with the name of a bundle where nothing but the name is known.
func ValidateTrustBundleName(name string) []string {
	return apivalidation.NameIsDNSSubdomain(name[strings.LastIndex(name, ":")+1:], false)
}

const maxTrustBundle = 1 << 20 // bytes

// validateTrustBundle checks all but the certificates.
func validateTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	check := func(name, of string, prefix bool) {
		if name == "" {
			return // the registry says so
		}
		for _, message := range bundleName(name, prefix, b.Spec.SignerName) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", of), name, message))
		}
	}
	check(b.GenerateName, "generateName", true)
	check(b.Name, "name", false)
	if b.Spec.SignerName != "" {
		errs = append(errs, ValidateSignerName(field.NewPath("spec", "signerName"), b.Spec.SignerName)...)
	}
	return errs
}

// validateAnchors demands PEM blocks of CA certificates, at least one, none twice, without headers.
func validateAnchors(bundle string, path *field.Path) field.ErrorList {
	if len(bundle) > maxTrustBundle {
		return field.ErrorList{field.TooLong(path, "", maxTrustBundle)}
	}
	var errs field.ErrorList
	var order []string
	entries := map[string][]int{}
	i := 0
	for block, rest := pem.Decode([]byte(bundle)); block != nil; block, rest = pem.Decode(rest) {
		if message := anchorError(block); message != "" {
			errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("entry %d %s", i, message)))
		}
		der := string(block.Bytes)
		if entries[der] == nil {
			order = append(order, der)
		}
		entries[der] = append(entries[der], i)
		i++
	}
	if len(errs) > 0 {
		return errs
	}
	if len(order) == 0 {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "at least one trust anchor must be provided")}
	}
	for _, der := range order {
		if len(entries[der]) > 1 {
			errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("duplicate trust anchor (indices %v)", entries[der])))
		}
	}
	return errs
}

func anchorError(block *pem.Block) string {
	switch certificate, err := x509.ParseCertificate(block.Bytes); {
	case block.Type != "CERTIFICATE":
		return "has bad block type: " + block.Type
	case len(block.Headers) > 0:
		return "has PEM block headers"
	case err != nil:
		return "does not parse as X.509"
	case !certificate.IsCA:
		return "does not have the CA bit set"
	case !certificate.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
