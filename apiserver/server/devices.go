package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"

	"keelson.dev/apiserver/admission"
	"keelson.dev/internal/features"
)

// restrictAdminAccess lets claims to devices that others use already (KEP-5018) into namespaces with the label for it only. Claims do
// not change.
func (c *config) restrictAdminAccess(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if old != nil {
		return nil
	}
	var requests []resourcev1.DeviceRequest
	switch o := obj.(type) {
	case *resourcev1.ResourceClaim:
		requests = o.Spec.Devices.Requests
	case *resourcev1.ResourceClaimTemplate:
		requests = o.Spec.Spec.Devices.Requests
	}
	i := slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false)
	})
	if i < 0 {
		return nil
	}
	path := field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
	if err := c.adminNamespace(ctx, genericapirequest.NamespaceValue(ctx), path); err != nil {
		return field.ErrorList{err}
	}
	return nil
}

func (c *config) adminNamespace(ctx context.Context, name string, path *field.Path) *field.Error {
	namespace, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))
	case namespace.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true":
		return field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))
	}
	return nil
}

// guardClaimStatus asks what KEP-5018 and KEP-4817 want of those who write the status of a claim: the namespace's label for admin
// access, resourceclaims/binding to allocate and reserve, resourceclaims/driver for each driver whose devices' status changes.
func (c *config) guardClaimStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	claim, was := obj.(*resourcev1.ResourceClaim), &old.(*resourcev1.ResourceClaim).Status
	now := &claim.Status
	path := field.NewPath("status")
	var errs field.ErrorList
	if i := adminResult(now.Allocation); i >= 0 && adminResult(was.Allocation) < 0 {
		if err := c.adminNamespace(ctx, claim.Namespace, path.Child("allocation", "devices", "results").Index(i).Child("adminAccess")); err != nil {
			errs = append(errs, err)
		}
	}
	if !features.Enabled("DRAResourceClaimGranularStatusAuthorization") {
		return errs
	}
	request, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return append(errs, field.InternalError(path, fmt.Errorf("cannot build authorizer attributes: %w", err)))
	}
	ask := statusQuestion{auth: c.generic.Authorization.Authorizer, request: request}
	if !apiequality.Semantic.DeepEqual(now.Allocation, was.Allocation) || !apiequality.Semantic.DeepEqual(now.ReservedFor, was.ReservedFor) {
		if err := ask.may(ctx, request.GetVerb(), resourcev1.SubresourceBinding, "", ""); err != nil {
			errs = append(errs, field.Forbidden(path.Child("allocation"), fmt.Sprintf(
				`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, request.GetVerb(), err)))
		}
	}
	if now.Allocation == nil {
		return errs // without an allocation there is no status of devices
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + request.GetVerb()}
	if node := allocatedNode(now.Allocation); node != "" && node == accountNode(request.GetUser()) {
		verbs = slices.Insert(verbs, 0, resourcev1.VerbPrefixAssociatedNode+request.GetVerb())
	}
	for _, driver := range changedDrivers(now.Devices, was.Devices) {
		if err := ask.mayAny(ctx, verbs, driver); err != nil {
			errs = append(errs, field.Forbidden(path.Child("devices"), fmt.Sprintf(
				`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, err)))
		}
	}
	return errs
}

// adminResult is the first result with admin access, -1 for none.
func adminResult(a *resourcev1.AllocationResult) int {
	if a == nil {
		return -1
	}
	return slices.IndexFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return ptr.Deref(r.AdminAccess, false) })
}

// statusQuestion asks the authorizer about parts of a request as if they were subresources.
type statusQuestion struct {
	auth    authorizer.UnconditionalAuthorizer
	request authorizer.Attributes
}

func (q statusQuestion) may(ctx context.Context, verb, subresource, namespace, name string) error {
	part := authorizer.AttributesRecord{
		User: q.request.GetUser(), Verb: verb, Namespace: namespace, Name: name, Subresource: subresource, ResourceRequest: true,
		APIGroup: q.request.GetAPIGroup(), APIVersion: q.request.GetAPIVersion(), Resource: q.request.GetResource(), Path: q.request.GetPath(),
	}
	decision, reason, err := q.auth.Authorize(ctx, part)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil // whatever else could not be evaluated
	case err != nil && reason != "":
		reason = fmt.Sprintf("%v: %s", err, reason)
	case err != nil:
		reason = err.Error()
	}
	return responsewriters.ForbiddenStatusError(part, reason)
}

// mayAny asks for one verb after the other, about a driver; the first refusal is told.
func (q statusQuestion) mayAny(ctx context.Context, verbs []string, driver string) error {
	var first error
	for _, verb := range verbs {
		err := q.may(ctx, verb, resourcev1.SubresourceDriver, q.request.GetNamespace(), driver)
		if err == nil {
			return nil
		}
		first = cmp.Or(first, err)
	}
	return first
}

// changedDrivers lists the drivers of devices whose status was added, changed or removed.
func changedDrivers(now, was []resourcev1.AllocatedDeviceStatus) []string {
	drivers := sets.New[string]()
	missing := func(from, in []resourcev1.AllocatedDeviceStatus) {
		for i := range from {
			if !slices.ContainsFunc(in, func(d resourcev1.AllocatedDeviceStatus) bool { return apiequality.Semantic.DeepEqual(d, from[i]) }) {
				drivers.Insert(from[i].Driver)
			}
		}
	}
	missing(now, was)
	missing(was, now)
	return sets.List(drivers)
}

// allocatedNode is the node that an allocation names as the only one; empty: there is none.
func allocatedNode(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) > 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// accountNode is the node that a service account's token is bound to; empty: none, or no service account.
func accountNode(who user.Info) string {
	nodes := who.GetExtra()[serviceaccount.NodeNameKey]
	if _, _, err := serviceaccount.SplitUsername(who.GetName()); err != nil || len(nodes) != 1 {
		return ""
	}
	return nodes[0]
}

// guardPodCertificate lets only those decide on a pod's certificate who may sign for its signer.
func (c *config) guardPodCertificate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	request, was := obj.(*certificatesv1.PodCertificateRequest), old.(*certificatesv1.PodCertificateRequest)
	if apiequality.Semantic.DeepEqual(request.Status, was.Status) {
		return nil
	}
	path, signer := field.NewPath("spec", "signerName"), was.Spec.SignerName
	who, ok := genericapirequest.UserFrom(ctx)
	switch {
	case !ok:
		return field.ErrorList{field.InternalError(path, errors.New(`cannot determine calling user to perform "sign" check`))}
	case !admission.MayForSigner(ctx, c.generic.Authorization.Authorizer, who, "sign", signer):
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", who.GetName(), signer))}
	}
	return nil
}
