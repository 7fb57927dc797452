// Package bootstraptoken is the way of new machines into a cluster: the tokens by which nodes ask for their certificates, and servers for
// what all servers share.
package bootstraptoken

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// joinGroup is the group whose certificate requests are approved by the default bindings, as kubeadm makes them.
const joinGroup = "system:bootstrappers:kubeadm:default-node-token"

// Ensure stores a token of the form id.secret, which never expires. A token that is there is left as it is.
func Ensure(ctx context.Context, client kubernetes.Interface, token string) error {
	_, err := store(ctx, client, token, "lets the nodes of this cluster join", 0)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Create makes a token for nodes that expires after life.
func Create(ctx context.Context, client kubernetes.Interface, life time.Duration) (string, error) {
	token, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return "", fmt.Errorf("make bootstrap token: %w", err)
	}
	_, err = store(ctx, client, token, "lets nodes join", life)
	return token, err
}

// store creates the Secret that the API server's authenticator looks for; a life of 0 does not end.
func store(ctx context.Context, client kubernetes.Interface, token, description string, life time.Duration) (*corev1.Secret, error) {
	id, secret, ok := strings.Cut(token, ".")
	if !ok {
		return nil, fmt.Errorf("bootstrap token is not of the form id.secret")
	}
	stored := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.BootstrapTokenSecretPrefix + id, Namespace: metav1.NamespaceSystem},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(id),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(joinGroup),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte(description),
		},
	}
	if life > 0 {
		stored.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(time.Now().Add(life).UTC().Format(time.RFC3339))
	}
	stored, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, stored, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("store bootstrap token: %w", err)
	}
	return stored, nil
}
