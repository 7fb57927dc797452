// Package reviews answers questions about authentication and authorization: TokenReview and SelfSubjectReview, and the access
// reviews. Reviews are created and answered, never stored.
package reviews

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Authentication returns the storage of authentication.k8s.io/v1 by resource name.
func Authentication(auth authenticator.Request, audiences authenticator.Audiences) map[string]rest.Storage {
	return map[string]rest.Storage{
		"tokenreviews":       newTokenReview(auth, audiences),
		"selfsubjectreviews": newSelfSubjectReview(),
	}
}

// Authorization returns the storage of authorization.k8s.io/v1 by resource name.
func Authorization(auth authorizer.UnconditionalAuthorizer, rules authorizer.RuleResolver) map[string]rest.Storage {
	return map[string]rest.Storage{
		"subjectaccessreviews":      newSubjectAccessReview(auth),
		"localsubjectaccessreviews": newLocalSubjectAccessReview(auth),
		"selfsubjectaccessreviews":  newSelfSubjectAccessReview(auth),
		"selfsubjectrulesreviews":   newSelfSubjectRulesReview(rules),
	}
}

// review is a kind that is answered on create. Answer fills the status of the object.
type review[T runtime.Object] struct {
	kind       schema.GroupKind
	singular   string
	namespaced bool
	empty      func() T
	validate   func(ctx context.Context, obj T) field.ErrorList
	answer     func(ctx context.Context, obj T) error
}

var (
	_ rest.Creater              = &review[runtime.Object]{}
	_ rest.Scoper               = &review[runtime.Object]{}
	_ rest.SingularNameProvider = &review[runtime.Object]{}
)

func (r *review[T]) New() runtime.Object     { return r.empty() }
func (r *review[T]) Destroy()                {}
func (r *review[T]) NamespaceScoped() bool   { return r.namespaced }
func (r *review[T]) GetSingularName() string { return r.singular }

// Create answers the review.
func (r *review[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	in, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", r.kind.Kind, obj))
	}
	if r.validate != nil {
		if errs := r.validate(ctx, in); len(errs) != 0 {
			return nil, apierrors.NewInvalid(schema.GroupKind{Group: r.kind.Group}, "", errs) // upstream names no kind
		}
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, in); err != nil {
		return nil, err
	}
	return in, nil
}
