// Package bootstraptoken stores the tokens by which new nodes ask for their certificates.
package bootstraptoken

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// joinGroup is the group whose certificate requests are approved by the default bindings, as kubeadm makes them.
const joinGroup = "system:bootstrappers:kubeadm:default-node-token"

// Ensure stores a token of the form id.secret as the Secret that the API server's authenticator looks for. A token that is there is
// left as it is.
func Ensure(ctx context.Context, client kubernetes.Interface, token string) error {
	id, secret, ok := strings.Cut(token, ".")
	if !ok {
		return fmt.Errorf("bootstrap token is not of the form id.secret")
	}
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.BootstrapTokenSecretPrefix + id, Namespace: metav1.NamespaceSystem},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(id),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(joinGroup),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte("lets the nodes of this cluster join"),
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("store bootstrap token: %w", err)
	}
	return nil
}
