package subresources

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/apis/certificates"
	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apiserver/registry"
)

// ephemeralContainers serves adding debug containers to a running pod.
func ephemeralContainers(pods *registry.Kind) *registry.Partial {
	return pods.Variant(
		func(obj, old resource.Object) {
			core.PreparePodEphemeralContainers(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
		func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return core.ValidatePodEphemeralContainersUpdate(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
		fieldpath.MakePathOrDie("status"),
	)
}

// resize serves changing the resources of a running pod's containers.
func resize(pods *registry.Kind) *registry.Partial {
	return pods.Variant(
		func(obj, old resource.Object) { core.PreparePodResize(obj.(*corev1.Pod), old.(*corev1.Pod)) },
		func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return core.ValidatePodResize(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
		fieldpath.MakePathOrDie("status"),
	)
}

// approval serves deciding about certificate requests: only conditions change, and a decision stands.
func approval(requests *registry.Kind) *registry.Partial {
	return requests.Variant(
		func(obj, old resource.Object) {
			certificates.PrepareApproval(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
		func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return certificates.ValidateApproval(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"),
	)
}
