package tokens

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"keelson.dev/internal/satoken"
)

const (
	minLifetimeSeconds     = 600
	maxLifetimeSeconds     = 1 << 32
	defaultLifetimeSeconds = 3600
	// projectedLifetimeSeconds is what the ServiceAccount admission plugin asks for in the volume that it mounts everywhere.
	// The odd number marks those tokens: clients that never reload them get a longer life, and are noted in the audit log.
	projectedLifetimeSeconds = 3607
	extendedLifetime         = 365 * 24 * time.Hour
)

// RESTConfig is what the token subresource needs.
type RESTConfig struct {
	Issuer    string
	Signer    Signer
	Audiences authenticator.Audiences // the API server's own, given to requests that name none
	// MaxLifetime bounds what may be asked for; 0 is no bound.
	MaxLifetime time.Duration
	// ExtendExpiration gives the tokens of the standard volume a year (--service-account-extend-token-expiration).
	ExtendExpiration bool

	// Storage of the objects that are looked up, consistently, while a token is issued.
	ServiceAccounts, Pods, Secrets, Nodes rest.Getter

	Clock clock.PassiveClock // nil means the real one
}

// NewREST returns the storage of serviceaccounts/token.
func NewREST(cfg RESTConfig) rest.Storage {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &tokenREST{cfg}
}

type tokenREST struct{ cfg RESTConfig }

var (
	_ rest.NamedCreater             = &tokenREST{}
	_ rest.GroupVersionKindProvider = &tokenREST{}
	_ rest.Scoper                   = &tokenREST{}
)

func (r *tokenREST) New() runtime.Object   { return &authenticationv1.TokenRequest{} }
func (r *tokenREST) Destroy()              {}
func (r *tokenREST) NamespaceScoped() bool { return true }

func (r *tokenREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create issues a token for the named service account.
func (r *tokenREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	found, err := r.cfg.ServiceAccounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	sa := found.(*corev1.ServiceAccount)
	if err := r.complete(request, sa); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	want := satoken.Request{ServiceAccount: sa, Audiences: request.Spec.Audiences}
	if err := r.bind(ctx, request.Spec.BoundObjectRef, &want); err != nil {
		return nil, err
	}
	asked := *request.Spec.ExpirationSeconds
	want.Lifetime, want.WarnAfter = r.lifetime(asked, &want)
	now := r.cfg.Clock.Now()
	claims := satoken.BoundClaims(r.cfg.Issuer, now, want)
	token, err := r.cfg.Signer.Sign(ctx, claims)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, tokenjwt.CredentialIDForJTI(claims.ID))

	out := request.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{
		Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(asked) * time.Second)),
	}
	return out, nil
}

// complete checks the request against the service account in the path and fills what it leaves out.
func (r *tokenREST) complete(request *authenticationv1.TokenRequest, sa *corev1.ServiceAccount) error {
	if request.Name != "" && request.Name != sa.Name {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), sa.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), request.Name, "must match the service account name if specified"),
		})
	}
	if request.Namespace != "" && request.Namespace != sa.Namespace {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), sa.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "namespace"), request.Namespace, "must match the service account namespace if specified"),
		})
	}
	if request.CreationTimestamp.IsZero() {
		request.CreationTimestamp = metav1.NewTime(r.cfg.Clock.Now())
	}
	request.Name, request.Namespace = sa.Name, sa.Namespace
	request.Status = authenticationv1.TokenRequestStatus{}
	if request.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultLifetimeSeconds)
		request.Spec.ExpirationSeconds = &seconds
	}
	if len(request.Spec.Audiences) == 0 {
		request.Spec.Audiences = r.cfg.Audiences
	}
	if errs := validateLifetime(*request.Spec.ExpirationSeconds); len(errs) != 0 {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	if limit := int64(r.cfg.MaxLifetime / time.Second); limit > 0 && *request.Spec.ExpirationSeconds > limit {
		request.Spec.ExpirationSeconds = &limit
	}
	return nil
}

func validateLifetime(seconds int64) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	switch {
	case seconds < minLifetimeSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxLifetimeSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// lifetime decides how long the token lives and from when on its use is noted.
func (r *tokenREST) lifetime(seconds int64, want *satoken.Request) (lifetime, warnAfter time.Duration) {
	lifetime = time.Duration(seconds) * time.Second
	own := len(authenticator.Audiences(want.Audiences).Intersect(r.cfg.Audiences)) == len(want.Audiences)
	if !r.cfg.ExtendExpiration || want.Pod == nil || seconds != projectedLifetimeSeconds || !own {
		return lifetime, 0
	}
	extended := extendedLifetime
	if r.cfg.MaxLifetime > 0 {
		extended = min(extended, r.cfg.MaxLifetime)
	}
	return extended, lifetime
}

// bind looks up the object that ends the token's life.
func (r *tokenREST) bind(ctx context.Context, ref *authenticationv1.BoundObjectReference, want *satoken.Request) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		return r.bindPod(ctx, ref, want)
	case gvk.Group == "" && gvk.Kind == "Secret":
		found, err := r.cfg.Secrets.Get(namespaced(ctx, want), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return missing(err, "secrets", ref.Name)
		}
		want.Secret = found.(*corev1.Secret)
		return sameUID(ref, corev1.Resource("secrets"), want.Secret.UID)
	case gvk.Group == "" && gvk.Kind == "Node":
		found, err := r.cfg.Nodes.Get(genericapirequest.WithNamespace(ctx, ""), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return missing(err, "nodes", ref.Name)
		}
		want.Node = found.(*corev1.Node)
		return sameUID(ref, corev1.Resource("nodes"), want.Node.UID)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
}

// missing names the kind that was looked for: the store names that of the request.
func missing(err error, resource, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	return err
}

func (r *tokenREST) bindPod(ctx context.Context, ref *authenticationv1.BoundObjectReference, want *satoken.Request) error {
	found, err := r.cfg.Pods.Get(namespaced(ctx, want), ref.Name, &metav1.GetOptions{})
	if err != nil {
		return missing(err, "pods", ref.Name)
	}
	pod := found.(*corev1.Pod)
	if pod.Spec.ServiceAccountName != want.ServiceAccount.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", want.ServiceAccount.Name))
	}
	if err := sameUID(ref, corev1.Resource("pods"), pod.UID); err != nil {
		return err
	}
	want.Pod = pod
	if pod.Spec.NodeName == "" {
		return nil
	}
	found, err = r.cfg.Nodes.Get(genericapirequest.WithNamespace(ctx, ""), pod.Spec.NodeName, &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err): // the node may be gone while its pod still is there; its name is worth telling
		want.Node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName}}
		return nil
	case err != nil:
		return err
	}
	want.Node = found.(*corev1.Node)
	return nil
}

func namespaced(ctx context.Context, want *satoken.Request) context.Context {
	return genericapirequest.WithNamespace(ctx, want.ServiceAccount.Namespace)
}

func sameUID(ref *authenticationv1.BoundObjectReference, gr schema.GroupResource, uid types.UID) error {
	if ref.UID == "" || ref.UID == uid {
		return nil
	}
	return apierrors.NewConflict(gr, ref.Name, fmt.Errorf(
		"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}
