package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/certificates"
	"keelson.dev/apis/validate"
)

// validateProjected checks a volume of several sources; no two may write the same file.
func validateProjected(v *corev1.ProjectedVolumeSource, path *field.Path) field.ErrorList {
	errs := validate.FileMode(v.DefaultMode, path.Child("defaultMode"))
	files := sets.New[string]()
	for i := range v.Sources {
		source, at := &v.Sources[i], path.Child("sources").Index(i)
		claim := func(owner any) func(string) {
			return func(file string) {
				if files.Has(file) {
					errs = append(errs, field.Invalid(path, owner, "conflicting duplicate paths"))
				}
				files.Insert(file)
			}
		}
		checks := []sourceCheck{
			{name: "secret", set: source.Secret != nil, check: func(at *field.Path) field.ErrorList {
				errs := requireStrings(at, pair{"name", source.Secret.Name})
				return append(errs, validateItems(source.Secret.Items, at.Child("items"), claim(source.Secret.Name))...)
			}},
			{name: "configMap", set: source.ConfigMap != nil, check: func(at *field.Path) field.ErrorList {
				errs := requireStrings(at, pair{"name", source.ConfigMap.Name})
				return append(errs, validateItems(source.ConfigMap.Items, at.Child("items"), claim(source.ConfigMap.Name))...)
			}},
			{name: "downwardAPI", set: source.DownwardAPI != nil, check: func(at *field.Path) field.ErrorList {
				return validateDownwardProjection(source.DownwardAPI, at, claim)
			}},
			{name: "serviceAccountToken", set: source.ServiceAccountToken != nil, check: func(at *field.Path) field.ErrorList {
				return validateTokenProjection(source.ServiceAccountToken, at, path.Child("path"))
			}},
			{name: "clusterTrustBundle", set: source.ClusterTrustBundle != nil, check: func(at *field.Path) field.ErrorList {
				return validateTrustBundleProjection(source.ClusterTrustBundle, at, claim(source.ClusterTrustBundle.Path))
			}},
			{name: "podCertificate", set: source.PodCertificate != nil, check: func(at *field.Path) field.ErrorList {
				return validateCertificateProjection(source.PodCertificate, at, claim)
			}},
		}
		count := 0
		for _, c := range checks {
			if c.set {
				count++
				errs = append(errs, c.check(at.Child(c.name))...)
			}
		}
		if count > 1 { // none is fine: it projects nothing and gets a warning
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

func validateDownwardProjection(p *corev1.DownwardAPIProjection, path *field.Path, claim func(any) func(string)) field.ErrorList {
	var errs field.ErrorList
	for i := range p.Items {
		errs = append(errs, validateDownwardFile(&p.Items[i], path)...)
		if file := p.Items[i].Path; file != "" {
			claim(file)(file)
		}
	}
	return errs
}

// validateTokenProjection: what is wrong with the file is told of the volume.
func validateTokenProjection(p *corev1.ServiceAccountTokenProjection, path, file *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.ExpirationSeconds != nil && *p.ExpirationSeconds < 10*60 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *p.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if p.ExpirationSeconds != nil && *p.ExpirationSeconds > 1<<32 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *p.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if p.Path == "" {
		return append(errs, field.Required(file, ""))
	}
	return append(errs, validate.NonReservedPath(p.Path, file)...)
}

func validateTrustBundleProjection(p *corev1.ClusterTrustBundleProjection, path *field.Path, claim func(string)) field.ErrorList {
	var errs field.ErrorList
	switch {
	case p.Name != nil && p.SignerName != nil:
		errs = append(errs, field.Invalid(path, p, "only one of name and signerName may be used"))
	case p.Name == nil && p.SignerName == nil:
		errs = append(errs, field.Required(path, "either name or signerName must be specified"))
	case p.Name != nil:
		if *p.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), "must be a valid object name"))
		}
		for _, message := range certificates.ValidateTrustBundleName(*p.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), *p.Name, "not a valid clustertrustbundlename: "+message))
		}
	case p.SignerName != nil:
		if *p.SignerName == "" {
			errs = append(errs, field.Required(path.Child("signerName"), "must be a valid signer name"))
		} else {
			errs = append(errs, certificates.ValidateSignerName(path.Child("signerName"), *p.SignerName)...)
		}
		errs = append(errs, validate.LabelSelector(p.LabelSelector, path.Child("labelSelector"))...)
	}
	if p.Name != nil && p.SignerName == nil && p.LabelSelector != nil {
		errs = append(errs, field.Invalid(path.Child("labelSelector"), p.LabelSelector, "labelSelector must be unset if name is specified"))
	}
	if p.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	}
	claim(p.Path)
	return append(errs, validate.NonReservedPath(p.Path, path.Child("path"))...)
}

var certificateKeyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func validateCertificateProjection(p *corev1.PodCertificateProjection, path *field.Path, claim func(any) func(string)) field.ErrorList {
	var errs field.ErrorList
	if p.SignerName == "" {
		errs = append(errs, field.Required(path.Child("signerName"), ""))
	} else {
		errs = append(errs, certificates.ValidateSignerName(path.Child("signerName"), p.SignerName)...)
	}
	errs = append(errs, certificates.ValidateUserAnnotations(p.UserAnnotations, path.Child("userAnnotations"))...)
	errs = append(errs, validate.OneOf(p.KeyType, path.Child("keyType"), certificateKeyTypes...)...)
	if seconds := p.MaxExpirationSeconds; seconds != nil {
		longest := certificates.LongestPodCertificateLife(p.SignerName)
		switch at := path.Child("maxExpirationSeconds"); {
		case *seconds < 3600:
			errs = append(errs, field.Invalid(at, *seconds, "if provided, maxExpirationSeconds must be >= 3600"))
		case *seconds > longest:
			errs = append(errs, field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest)))
		}
	}
	if p.CredentialBundlePath == "" && p.KeyPath == "" && p.CertificateChainPath == "" {
		errs = append(errs, field.Required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for _, file := range []pair{{"credentialBundlePath", p.CredentialBundlePath}, {"keyPath", p.KeyPath}, {"certificateChainPath", p.CertificateChainPath}} {
		if file.value != "" {
			errs = append(errs, validate.NonReservedPath(file.value, path.Child(file.name))...)
			claim(file.value)(file.value)
		}
	}
	return errs
}
