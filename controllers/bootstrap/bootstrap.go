// Package bootstrap looks after the tokens by which machines join the cluster: it signs the public cluster-info with them, so that a
// machine that knows a token can trust it, and removes those that have expired.
package bootstrap

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// clusterInfo is the ConfigMap that anybody may read.
var clusterInfo = types.NamespacedName{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo}

func tokensOf(e *env.Env) (env.Filtered[*corev1.Secret], error) {
	return env.Filter(e, &corev1.Secret{}, cache.ByObject{Field: fields.AndSelectors(
		fields.OneTermEqualSelector("metadata.namespace", metav1.NamespaceSystem),
		fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)))})
}

// AddSigner wires the controller that signs cluster-info with each token.
func AddSigner(e *env.Env) error {
	tokens, err := tokensOf(e)
	if err != nil {
		return err
	}
	infos, err := env.Filter(e, &corev1.ConfigMap{}, cache.ByObject{Field: fields.AndSelectors(
		fields.OneTermEqualSelector("metadata.namespace", clusterInfo.Namespace), fields.OneTermEqualSelector("metadata.name", clusterInfo.Name))})
	if err != nil {
		return err
	}
	sign := func(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
		info, ok := infos.Find(clusterInfo.Namespace, clusterInfo.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		data, err := signed(info.Data, tokens.In(metav1.NamespaceSystem), e.Clock.Now())
		if err != nil || maps.Equal(data, info.Data) {
			return ctrl.Result{}, err
		}
		changed := info.DeepCopy()
		changed.Data = data
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Update(ctx, changed))
	}
	return e.Controller("bootstrap-signer", 1, sign, infos.Watch(env.For(&corev1.ConfigMap{})),
		tokens.Watch(env.Mapped(&corev1.Secret{}, func(*corev1.Secret) []types.NamespacedName { return []types.NamespacedName{clusterInfo} })))
}

// AddCleaner wires the controller that deletes tokens which have expired.
func AddCleaner(e *env.Env) error {
	tokens, err := tokensOf(e)
	if err != nil {
		return err
	}
	clean := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		secret, ok := tokens.Find(req.Namespace, req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		at, expires := expiry(secret)
		if !expires {
			return ctrl.Result{}, nil
		}
		if wait := at.Sub(e.Clock.Now()); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		klog.FromContext(ctx).V(3).Info("Deleting expired bootstrap token", "secret", klog.KObj(secret))
		err := e.Client.Delete(ctx, secret.DeepCopy(), client.Preconditions{UID: new(secret.UID), ResourceVersion: new(secret.ResourceVersion)})
		if err != nil && !apierrors.IsNotFound(err) {
			return ctrl.Result{}, fmt.Errorf("delete token: %w", err)
		}
		return ctrl.Result{}, nil
	}
	return e.Controller("token-cleaner", 1, clean, tokens.Watch(env.For(&corev1.Secret{})))
}

// signed returns the data of cluster-info with exactly one signature for each token that may sign.
func signed(data map[string]string, tokens []*corev1.Secret, now time.Time) (map[string]string, error) {
	out := map[string]string{}
	for key, value := range data {
		if !strings.HasPrefix(key, bootstrapapi.JWSSignatureKeyPrefix) {
			out[key] = value
		}
	}
	content, ok := data[bootstrapapi.KubeConfigKey]
	if !ok {
		return out, nil
	}
	for _, secret := range tokens {
		id, key, ok := signingKey(secret, now)
		if !ok {
			continue
		}
		signature, err := jws.ComputeDetachedSignature(content, id, key)
		if err != nil {
			return nil, fmt.Errorf("sign with token %s: %w", id, err)
		}
		out[bootstrapapi.JWSSignatureKeyPrefix+id] = signature
	}
	return out, nil
}

// signingKey returns a token's id and secret; false if it is no valid token for signing.
func signingKey(secret *corev1.Secret, now time.Time) (id, key string, ok bool) {
	id, key = string(secret.Data[bootstrapapi.BootstrapTokenIDKey]), string(secret.Data[bootstrapapi.BootstrapTokenSecretKey])
	if at, expires := expiry(secret); expires && !now.Before(at) {
		return "", "", false
	}
	valid := id != "" && key != "" && secret.Name == bootstrapapi.BootstrapTokenSecretPrefix+id && secret.DeletionTimestamp == nil &&
		string(secret.Data[bootstrapapi.BootstrapTokenUsageSigningKey]) == "true"
	return id, key, valid
}

// expiry returns when a token expires; false if it never does. A time that cannot be read has passed.
func expiry(secret *corev1.Secret) (time.Time, bool) {
	text := string(secret.Data[bootstrapapi.BootstrapTokenExpirationKey])
	if text == "" {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return at, true
}
