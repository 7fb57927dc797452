package subresources

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

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
			request, former := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
			request.Spec = former.Spec
			request.Status.Certificate = former.Status.Certificate
			stampConditions(request.Status.Conditions, former.Status.Conditions)
		},
		func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return validateApproval(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"),
	)
}

// stampConditions fills in the times of conditions that are new or have changed.
func stampConditions(conditions, old []certificatesv1.CertificateSigningRequestCondition) {
	now := metav1.Now()
	for i := range conditions {
		c := &conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		same := slices.IndexFunc(old, func(o certificatesv1.CertificateSigningRequestCondition) bool {
			return o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero()
		})
		if same >= 0 {
			c.LastTransitionTime = old[same].LastTransitionTime
		}
	}
}

func validateApproval(request, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "conditions")
	has := func(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		if has(old, t) && !has(request, t) {
			errs = append(errs, field.Forbidden(path, "updates may not remove a condition of type \""+string(t)+"\""))
		}
	}
	if has(request, certificatesv1.CertificateApproved) && has(request, certificatesv1.CertificateDenied) {
		errs = append(errs, field.Invalid(path, request.Status.Conditions, "Approved and Denied conditions are mutually exclusive"))
	}
	for i, c := range request.Status.Conditions {
		if c.Type == "" {
			errs = append(errs, field.Required(path.Index(i).Child("type"), ""))
		}
		decision := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		if decision && c.Status != corev1.ConditionTrue {
			errs = append(errs, field.NotSupported(path.Index(i).Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		}
	}
	return errs
}
