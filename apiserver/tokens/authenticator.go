package tokens

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/internal/satoken"
)

// deletionLeeway is how long after its end an object still carries its tokens: a pod shuts down with them.
const deletionLeeway = jwt.DefaultLeeway

const (
	// invalidSince marks secrets whose token has not been used for so long that the cleaner put it out of use.
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
	// lastUsed holds the day of a secret's last use, which the cleaner looks at.
	lastUsed = "kubernetes.io/legacy-token-last-used"
)

// Authenticator checks service account tokens.
type Authenticator struct {
	Issuers []string // issuers whose tokens are ours, the legacy one is always among them
	Keys    Keys
	// Audiences are this API server's own; a token without any audience is meant for them.
	Audiences authenticator.Audiences
	// Objects finds what tokens are bound to; nil accepts tokens whose objects are gone (--service-account-lookup=false).
	Objects Objects
	Clock   clock.PassiveClock
}

var _ authenticator.Token = &Authenticator{}

// AuthenticateToken returns the service account that a token speaks for. A token of another issuer is none of its business:
// no error and no user.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parsed, claims, err := satoken.Parse(token)
	if err != nil || !a.ours(claims.Issuer) {
		return nil, false, nil //nolint:nilerr // another's token
	}
	claims, err = satoken.Verify(parsed, a.Keys.Keys(ctx, satoken.SignedWith(parsed)))
	if err != nil {
		return nil, false, err
	}
	audiences := authenticator.Audiences(claims.Audience)
	if len(audiences) == 0 {
		audiences = a.Audiences
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.Audiences
	}
	accepted := audiences.Intersect(wanted)
	if len(accepted) == 0 && len(wanted) > 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", audiences, wanted)
	}
	info, err := a.check(ctx, token, claims)
	if err != nil {
		return nil, false, err
	}
	info.CredentialID = tokenjwt.CredentialIDForJTI(claims.ID)
	return &authenticator.Response{User: info.UserInfo(), Audiences: accepted}, true, nil
}

func (a *Authenticator) check(ctx context.Context, token string, claims satoken.Claims) (*serviceaccount.ServiceAccountInfo, error) {
	if claims.Issuer == satoken.LegacyIssuer {
		legacyTokens.Inc()
		return a.checkLegacy(ctx, token, claims)
	}
	return a.checkBound(ctx, claims)
}

func (a *Authenticator) ours(issuer string) bool {
	return issuer == satoken.LegacyIssuer || slices.Contains(a.Issuers, issuer)
}

// checkBound checks the times of a bound token and that everything it is bound to still exists.
func (a *Authenticator) checkBound(ctx context.Context, claims satoken.Claims) (*serviceaccount.ServiceAccountInfo, error) {
	now := a.Clock.Now()
	switch err := claims.ValidateWithLeeway(jwt.Expected{Time: now}, satoken.Leeway); {
	case err == nil:
	case errors.Is(err, jwt.ErrExpired):
		return nil, errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return nil, errors.New("service account token is not valid yet")
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, errors.New("service account token is issued in the future")
	default:
		return nil, errors.New("service account token claims could not be validated")
	}
	binding := claims.Kubernetes
	if binding == nil {
		return nil, errors.New("service account token has no kubernetes.io claims")
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: binding.Namespace, Name: binding.ServiceAccount.Name, UID: binding.ServiceAccount.UID,
	}
	if a.Objects == nil {
		tell(binding, info)
		return info, nil
	}
	sa, err := a.Objects.ServiceAccount(ctx, binding.Namespace, binding.ServiceAccount.Name)
	if err != nil {
		return nil, err
	}
	if err := alive("ServiceAccount", sa, binding.ServiceAccount.UID, now); err != nil {
		return nil, err
	}
	if err := a.checkBindings(ctx, binding, info, now); err != nil {
		return nil, err
	}
	if binding.WarnAfter != nil && now.After(binding.WarnAfter.Time()) {
		a.noteStale(ctx, claims, now)
	} else {
		validTokens.Inc()
	}
	return info, nil
}

// checkBindings looks up the objects besides the service account. A node stands for itself only in tokens without a pod: with
// one, the pod's end is what counts and the node is only told.
func (a *Authenticator) checkBindings(ctx context.Context, binding *satoken.Binding, info *serviceaccount.ServiceAccountInfo, now time.Time) error {
	if ref := binding.Secret; ref != nil {
		secret, err := a.Objects.Secret(ctx, binding.Namespace, ref.Name)
		if err != nil {
			klog.FromContext(ctx).V(4).Info("Bound secret not found", "secret", klog.KRef(binding.Namespace, ref.Name))
			return errors.New("service account token has been invalidated")
		}
		if err := alive("Secret", secret, ref.UID, now); err != nil {
			return err
		}
	}
	if ref := binding.Pod; ref != nil {
		pod, err := a.Objects.Pod(ctx, binding.Namespace, ref.Name)
		if err != nil {
			klog.FromContext(ctx).V(4).Info("Bound pod not found", "pod", klog.KRef(binding.Namespace, ref.Name))
			return errors.New("service account token has been invalidated")
		}
		if err := alive("Pod", pod, ref.UID, now); err != nil {
			return err
		}
	}
	if ref := binding.Node; ref != nil && binding.Pod == nil {
		node, err := a.Objects.Node(ctx, ref.Name)
		if err != nil {
			return errors.New("service account token has been invalidated")
		}
		if err := alive("Node", node, ref.UID, now); err != nil {
			return err
		}
	}
	tell(binding, info)
	return nil
}

// tell passes on which pod on which node a token is for: it stands in the user's extra fields.
func tell(binding *satoken.Binding, info *serviceaccount.ServiceAccountInfo) {
	if ref := binding.Pod; ref != nil {
		info.PodName, info.PodUID = ref.Name, ref.UID
	}
	if ref := binding.Node; ref != nil {
		info.NodeName, info.NodeUID = ref.Name, ref.UID
	}
}

// checkLegacy checks a token that is kept in a secret: it is valid while that secret holds it.
func (a *Authenticator) checkLegacy(ctx context.Context, token string, claims satoken.Claims) (*serviceaccount.ServiceAccountInfo, error) {
	namespace, name, uid := claims.LegacyNamespace, claims.LegacyName, claims.LegacyUID
	switch {
	case claims.Subject == "":
		return nil, errors.New("sub claim is missing")
	case namespace == "":
		return nil, errors.New("namespace claim is missing")
	case claims.LegacySecretName == "":
		return nil, errors.New("secretName claim is missing")
	case name == "":
		return nil, errors.New("serviceAccountName claim is missing")
	case uid == "":
		return nil, errors.New("serviceAccountUID claim is missing")
	case claims.Subject != satoken.Subject(namespace, name):
		return nil, errors.New("sub claim is invalid")
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: namespace, Name: name, UID: uid}
	if a.Objects == nil {
		return info, nil
	}
	secret, err := a.Objects.Secret(ctx, namespace, claims.LegacySecretName)
	if err != nil || secret.DeletionTimestamp != nil {
		return nil, errors.New("Token has been invalidated") //nolint:staticcheck // upstream's words
	}
	if subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, errors.New("Token does not match server's copy") //nolint:staticcheck // upstream's words
	}
	sa, err := a.Objects.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if sa.DeletionTimestamp != nil {
		return nil, fmt.Errorf("ServiceAccount %s/%s has been deleted", namespace, name)
	}
	if string(sa.UID) != uid {
		return nil, fmt.Errorf("ServiceAccount UID (%s) does not match claim (%s)", sa.UID, uid)
	}
	if !serviceaccount.IsServiceAccountToken(secret, sa) {
		return nil, errors.New("Token has been invalidated") //nolint:staticcheck // upstream's words
	}
	return info, a.trackLegacy(ctx, secret, sa)
}

// trackLegacy notes that a token from a secret is used, on the secret itself too: unused ones are cleaned away. It refuses one
// that was marked as invalid, whose further use is worth knowing.
func (a *Authenticator) trackLegacy(ctx context.Context, secret *corev1.Secret, sa *corev1.ServiceAccount) error {
	today, tomorrow := a.Clock.Now().UTC().Format(time.DateOnly), a.Clock.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	if last := secret.Labels[lastUsed]; last != today && last != tomorrow { // the clock of another server may be ahead
		if err := a.Objects.LabelSecret(ctx, secret, lastUsed, today); err != nil {
			klog.FromContext(ctx).Error(err, "Could not note the use of a token", "secret", klog.KObj(secret))
		}
	}
	if secret.Labels[invalidSince] != "" {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-invalidated", secret.Name+"/"+secret.Namespace)
		invalidatedTokens.Inc()
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API "+
			"or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, sa.Namespace, sa.Name, invalidSince)
	}
	if slices.ContainsFunc(sa.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == secret.Name }) {
		warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-autogenerated-secret", secret.Name)
		generatedTokens.Inc()
		return nil
	}
	audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-manual-secret", secret.Name)
	manualTokens.Inc()
	return nil
}

// noteStale leaves a trace of a client that has not reloaded its token for longer than it asked to keep it.
func (a *Authenticator) noteStale(ctx context.Context, claims satoken.Claims, now time.Time) {
	staleTokens.Inc()
	after := now.Sub(claims.Kubernetes.WarnAfter.Time()).Round(time.Second)
	text := fmt.Sprintf("subject: %s, seconds after warning threshold: %d", claims.Subject, int64(after.Seconds()))
	audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token", text)
}

// alive tells whether an object is the one that a token was bound to and has not been gone for longer than the leeway.
func alive(kind string, obj metav1.Object, uid string, now time.Time) error {
	if end := obj.GetDeletionTimestamp(); end != nil && end.Time.Before(now.Add(-deletionLeeway)) {
		return errors.New("service account token has been invalidated")
	}
	if string(obj.GetUID()) != uid {
		return fmt.Errorf("%s UID (%s) does not match claim (%s)", kind, obj.GetUID(), uid)
	}
	return nil
}
