package core

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// secret is confidential data for pods to read.
var secret = resource.Definition[*corev1.Secret]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Secret", Plural: "secrets",
	Namespaced: true, AllowUnconditionalUpdate: true,
	Default:  defaultSecret,
	Validate: validateSecret, ValidateUpdate: validateSecretUpdate,
	Warn: warnSecret,
	Fields: map[string]func(*corev1.Secret) string{
		"type": func(s *corev1.Secret) string { return string(s.Type) },
	},
	Columns: resource.Columns([]resource.Column[*corev1.Secret]{
		{Name: "Type", Description: corev1.Secret{}.SwaggerDoc()["type"], Get: func(s *corev1.Secret) any { return string(s.Type) }},
		{Name: "Data", Description: corev1.Secret{}.SwaggerDoc()["data"], Get: func(s *corev1.Secret) any { return int64(len(s.Data)) }},
	}...),
}

// defaultSecret also folds the write-only stringData into data.
func defaultSecret(s *corev1.Secret) {
	resource.SetDefault(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	path := field.NewPath("data")
	var errs field.ErrorList
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, validate.ConfigMapKey(key, path.Key(key))...)
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(path, "", corev1.MaxSecretSize))
	}
	return append(errs, validateSecretType(s, path)...)
}

// validateSecretType checks that the data are there which a known type promises.
func validateSecretType(s *corev1.Secret, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	require := func(key string) {
		if _, found := s.Data[key]; !found {
			errs = append(errs, field.Required(path.Key(key), ""))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		errs = requireJSON(s, corev1.DockerConfigKey, path)
	case corev1.SecretTypeDockerConfigJson:
		errs = requireJSON(s, corev1.DockerConfigJsonKey, path)
	case corev1.SecretTypeBasicAuth:
		_, hasName := s.Data[corev1.BasicAuthUsernameKey]
		_, hasPassword := s.Data[corev1.BasicAuthPasswordKey]
		if !hasName && !hasPassword { // either alone is enough
			require(corev1.BasicAuthUsernameKey)
			require(corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(path.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey)
		require(corev1.TLSPrivateKeyKey)
	default: // promises nothing
	}
	return errs
}

func requireJSON(s *corev1.Secret, key string, path *field.Path) field.ErrorList {
	data, found := s.Data[key]
	if !found {
		return field.ErrorList{field.Required(path.Key(key), "")}
	}
	if err := json.Unmarshal(data, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(path.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := validate.Immutable(s.Type, old.Type, field.NewPath("type"))
	if ptr.Deref(old.Immutable, false) {
		errs = append(errs, immutableData(ptr.Deref(s.Immutable, false), s.Data, old.Data)...)
	}
	return append(errs, validateSecret(s)...)
}

func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
