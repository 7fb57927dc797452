package certificates

import (
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
	ValidateName: bundleName,
	Validate:     validateTrustBundle,
	ValidateUpdate: func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
		return append(validateTrustBundle(b), validate.Immutable(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
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

// bundleName checks what follows the signer: a bundle of a signer is named after it, with colons for slashes: example.com:signer:rest.
func bundleName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSSubdomain(name[strings.LastIndex(name, ":")+1:], prefix)
}

// ValidateTrustBundleName tells what is wrong with the name of a bundle where nothing but the name is known.
func ValidateTrustBundleName(name string) []string { return bundleName(name, false) }

const maxTrustBundle = 1 << 20 // bytes

func validateTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	name, spec := field.NewPath("metadata", "name"), field.NewPath("spec")
	if b.Spec.SignerName == "" {
		if strings.Contains(b.Name, ":") {
			errs = append(errs, field.Invalid(name, b.Name, "ClusterTrustBundle without signer name must not have \":\" in its name"))
		}
	} else {
		if prefix := strings.ReplaceAll(b.Spec.SignerName, "/", ":") + ":"; !strings.HasPrefix(b.Name, prefix) {
			errs = append(errs, field.Invalid(name, b.Name, "ClusterTrustBundle for signerName "+b.Spec.SignerName+" must be named with prefix "+prefix))
		}
		errs = append(errs, ValidateSignerName(spec.Child("signerName"), b.Spec.SignerName)...)
	}
	bundle := spec.Child("trustBundle")
	if len(b.Spec.TrustBundle) > maxTrustBundle {
		return append(errs, field.TooLong(bundle, "<value omitted>", maxTrustBundle))
	}
	if err := checkCertificates([]byte(b.Spec.TrustBundle)); err != nil {
		errs = append(errs, field.Invalid(bundle, "<value omitted>", err.Error()))
	}
	return errs
}
