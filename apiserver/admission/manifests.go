package admission

import (
	"fmt"
	"reflect"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/initializer"
	policyloader "k8s.io/apiserver/pkg/admission/plugin/policy/manifest/loader"
	webhookloader "k8s.io/apiserver/pkg/admission/plugin/webhook/manifest/loader"

	"keelson.dev/apis/admissionregistration"
	"keelson.dev/apis/resource"
	"keelson.dev/apiserver/admission/expressions"
)

// manifestLoaders read policies and webhooks from the directories that staticManifestsDir in a plugin's configuration names (KEP
// 5793). What they read gets the defaults and passes the rules of what is created by the API.
func manifestLoaders() (*initializer.ManifestLoaders, error) {
	scheme := runtime.NewScheme()
	if err := admissionregistrationv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	scheme.AddUnversionedTypes(metav1.SchemeGroupVersion, &metav1.List{}, &metav1.Status{})
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	return &initializer.ManifestLoaders{
		LoadValidatingWebhookManifests: func(dir string) ([]*admissionregistrationv1.ValidatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, accepted[*admissionregistrationv1.ValidatingWebhookConfiguration])
		},
		LoadMutatingWebhookManifests: func(dir string) ([]*admissionregistrationv1.MutatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, accepted[*admissionregistrationv1.MutatingWebhookConfiguration])
		},
		LoadValidatingPolicyManifests: func(dir string) ([]*admissionregistrationv1.ValidatingAdmissionPolicy, []*admissionregistrationv1.ValidatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder,
				accepted[*admissionregistrationv1.ValidatingAdmissionPolicy], accepted[*admissionregistrationv1.ValidatingAdmissionPolicyBinding],
				func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName })
		},
		LoadMutatingPolicyManifests: func(dir string) ([]*admissionregistrationv1.MutatingAdmissionPolicy, []*admissionregistrationv1.MutatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder,
				accepted[*admissionregistrationv1.MutatingAdmissionPolicy], accepted[*admissionregistrationv1.MutatingAdmissionPolicyBinding],
				func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName })
		},
	}, nil
}

// accepted returns the objects of type T that a document of a manifest is, one or a list of them, complete and checked.
func accepted[T resource.Object](document runtime.Object) ([]T, error) {
	documents := []runtime.Object{document}
	if meta.IsListType(document) {
		var err error
		if documents, err = meta.ExtractList(document); err != nil {
			return nil, err
		}
	}
	var objects []T
	for _, one := range documents {
		object, ok := one.(T)
		if !ok {
			return nil, policyloader.ErrUnrecognizedType
		}
		if err := complete(object); err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	return objects, nil
}

func complete(object resource.Object) error {
	for _, row := range admissionregistration.Resources() {
		if reflect.TypeOf(row.New()) != reflect.TypeOf(object) {
			continue
		}
		if row.Default != nil {
			row.Default(object)
		}
		var errs field.ErrorList
		if row.Validate != nil {
			errs = row.Validate(object)
		}
		if errs = append(errs, expressions.Validate(object, nil)...); len(errs) > 0 {
			return fmt.Errorf("%s %q: %w", row.Kind, object.GetName(), errs.ToAggregate())
		}
	}
	return nil
}
