package server

import (
	"context"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// guardAdminAccess lets claims to devices that others use already (KEP-5018) into namespaces with the label for it only. Claims do not
// change.
func (c *config) guardAdminAccess(ctx context.Context, obj, old runtime.Object) error {
	if old != nil {
		return nil
	}
	var requests []resourcev1.DeviceRequest
	var meta *metav1.ObjectMeta
	kind := "ResourceClaim"
	switch o := obj.(type) {
	case *resourcev1.ResourceClaim:
		requests, meta = o.Spec.Devices.Requests, &o.ObjectMeta
	case *resourcev1.ResourceClaimTemplate:
		requests, meta, kind = o.Spec.Spec.Devices.Requests, &o.ObjectMeta, "ResourceClaimTemplate"
	}
	for i, r := range requests {
		if r.Exactly == nil || r.Exactly.AdminAccess == nil || !*r.Exactly.AdminAccess {
			continue
		}
		namespace, err := c.client.CoreV1().Namespaces().Get(ctx, meta.Namespace, metav1.GetOptions{})
		path := field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		switch {
		case err != nil:
			return apierrors.NewInternalError(fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))
		case namespace.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true":
			return apierrors.NewInvalid(resourcev1.SchemeGroupVersion.WithKind(kind).GroupKind(), meta.Name, field.ErrorList{field.Forbidden(path,
				fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))})
		}
		return nil
	}
	return nil
}
