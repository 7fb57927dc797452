package reviews

import (
	"context"
	"errors"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

func newTokenReview(auth authenticator.Request, audiences authenticator.Audiences) rest.Storage {
	return &review[*authenticationv1.TokenReview]{
		kind:     authenticationv1.SchemeGroupVersion.WithKind("TokenReview").GroupKind(),
		singular: "tokenreview",
		empty:    func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
		answer: func(ctx context.Context, in *authenticationv1.TokenReview) error {
			if in.Namespace != "" {
				return apierrors.NewBadRequest("namespace is not allowed on this type: " + in.Namespace)
			}
			if in.Spec.Token == "" {
				return apierrors.NewBadRequest("token is required for TokenReview in authentication")
			}
			in.Status = reviewToken(ctx, auth, in.Spec, audiences)
			return nil
		},
	}
}

// reviewToken lets the token try the same authenticators that a request would meet, and tells the user it belongs to.
func reviewToken(ctx context.Context, auth authenticator.Request, in authenticationv1.TokenReviewSpec, own authenticator.Audiences) authenticationv1.TokenReviewStatus {
	audiences := authenticator.Audiences(in.Audiences)
	if len(audiences) == 0 {
		audiences = own
	}
	if len(audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	request := (&http.Request{Header: http.Header{"Authorization": {"Bearer " + in.Token}}}).WithContext(ctx)
	response, ok, err := auth.AuthenticateRequest(request)
	status := authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		status.Error = err.Error()
	}
	if !ok || response == nil || response.User == nil {
		status.Authenticated = false
		return status
	}
	if len(audiences) > 0 && len(response.Audiences) == 0 {
		status.Authenticated = false
		status.Error = errors.New("internal error: token has no audience in common with the review").Error()
		return status
	}
	status.User = userInfo(response.User)
	for _, audience := range response.Audiences {
		if slices.Contains(audiences, audience) {
			status.Audiences = append(status.Audiences, audience)
		}
	}
	return status
}

func newSelfSubjectReview() rest.Storage {
	return &review[*authenticationv1.SelfSubjectReview]{
		kind:     authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview").GroupKind(),
		singular: "selfsubjectreview",
		empty:    func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
		validate: func(context.Context, *authenticationv1.SelfSubjectReview) field.ErrorList { return nil },
		answer: func(ctx context.Context, in *authenticationv1.SelfSubjectReview) error {
			who, ok := genericapirequest.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			in.ObjectMeta = metav1.ObjectMeta{CreationTimestamp: metav1.Now(), ManagedFields: in.ManagedFields}
			in.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(who)}
			return nil
		},
	}
}

func userInfo(who user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: who.GetName(), UID: who.GetUID(), Groups: who.GetGroups()}
	for key, values := range who.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
