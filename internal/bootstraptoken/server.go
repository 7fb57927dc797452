package bootstraptoken

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

const (
	sharedKey  = "shared" // in the Secret's data
	sharedName = "keelson-server-"
)

// CreateServer makes a token for a server that expires after life. It has the form id.secret.key: the files that all servers share are
// stored encrypted with the key, which the cluster does not know, where only the token may read them; they go when it goes.
func CreateServer(ctx context.Context, client kubernetes.Interface, life time.Duration, files map[string][]byte) (string, error) {
	token, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return "", fmt.Errorf("make bootstrap token: %w", err)
	}
	key := make([]byte, 32) // AES-256
	_, _ = rand.Read(key)   // it never fails
	sealed, err := seal(key, files)
	if err != nil {
		return "", err
	}
	stored, err := store(ctx, client, token, "lets a server join", life)
	if err != nil {
		return "", err
	}
	id, _, _ := strings.Cut(token, ".")
	meta := metav1.ObjectMeta{
		Name: sharedName + id, Namespace: metav1.NamespaceSystem,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: stored.Name, UID: stored.UID}},
	}
	_, err = client.CoreV1().Secrets(meta.Namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{sharedKey: sealed}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("store what servers share: %w", err)
	}
	_, err = client.RbacV1().Roles(meta.Namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{meta.Name}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("let the token read what servers share: %w", err)
	}
	_, err = client.RbacV1().RoleBindings(meta.Namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:bootstrap:" + id}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("let the token read what servers share: %w", err)
	}
	return token + "." + hex.EncodeToString(key), nil
}

// Bearer is the part of a token that the API server knows.
func Bearer(token string) string {
	parts := strings.SplitN(token, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// Files returns the files of CreateServer. The client acts as Bearer(token).
func Files(ctx context.Context, client kubernetes.Interface, token string) (map[string][]byte, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("this token is for nodes: keelson token create --server makes one for a server")
	}
	key, err := hex.DecodeString(parts[2])
	if err != nil {
		return nil, fmt.Errorf("key of the token: %w", err)
	}
	stored, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, sharedName+parts[0], metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read what servers share: %w", err)
	}
	return unseal(key, stored.Data[sharedKey])
}

func seal(key []byte, files map[string][]byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(files)
	if err != nil {
		return nil, fmt.Errorf("encode what servers share: %w", err)
	}
	return gcm.Seal(nil, nil, plain, nil), nil
}

func unseal(key, sealed []byte) (map[string][]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("decrypt what servers share: %w", err)
	}
	var files map[string][]byte
	if err := json.Unmarshal(plain, &files); err != nil {
		return nil, fmt.Errorf("decode what servers share: %w", err)
	}
	return files, nil
}

// newGCM puts its nonce before what it seals.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of the token: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}
