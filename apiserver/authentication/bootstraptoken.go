package authentication

import (
	"context"
	"crypto/subtle"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
	bootstraptokens "k8s.io/cluster-bootstrap/util/tokens"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// bootstrapTokens accepts the tokens that new nodes join with. Each is a secret in kube-system, read when such a token comes:
// joining is rare, and keeping every secret of the cluster in memory for it is not worth it.
type bootstrapTokens struct {
	client kubernetes.Interface
	clock  clock.PassiveClock
}

func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	id, secretPart, err := bootstraptokens.ParseToken(token)
	if err != nil {
		return nil, false, nil //nolint:nilerr // not a bootstrap token
	}
	name := bootstrapapi.BootstrapTokenSecretPrefix + id
	secret, err := b.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	info, reason := bootstrapUser(secret, id, secretPart, b.clock)
	if info == nil {
		klog.FromContext(ctx).V(3).Info("Bootstrap token refused", "secret", klog.KObj(secret), "reason", reason)
		return nil, false, nil
	}
	return &authenticator.Response{User: info}, true, nil
}

// bootstrapUser decides whether a secret lets the token's bearer in, and as whom; without a user it says why not.
func bootstrapUser(secret *corev1.Secret, id, secretPart string, now clock.PassiveClock) (user.Info, string) {
	switch {
	case secret.DeletionTimestamp != nil:
		return nil, "secret is being deleted"
	case secret.Type != corev1.SecretTypeBootstrapToken:
		return nil, "secret has another type"
	case subtle.ConstantTimeCompare([]byte(bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenSecretKey)), []byte(secretPart)) != 1:
		return nil, "token secret does not match"
	case bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenIDKey) != id:
		return nil, "token id does not match"
	case bootstrapsecrets.HasExpired(secret, now.Now()):
		return nil, "token has expired"
	case bootstrapsecrets.GetData(secret, bootstrapapi.BootstrapTokenUsageAuthentication) != "true":
		return nil, "token is not for authentication"
	}
	groups, err := bootstrapsecrets.GetGroups(secret)
	if err != nil {
		return nil, strings.TrimSpace(err.Error())
	}
	return &user.DefaultInfo{Name: bootstrapapi.BootstrapUserPrefix + id, Groups: groups}, ""
}
