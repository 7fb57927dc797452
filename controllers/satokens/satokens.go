// Package satokens fills secrets of the type kubernetes.io/service-account-token, which hold a token that lives as long as they do, and
// removes them with their account.
package satokens

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/satoken"
)

type reconciler struct {
	client   client.Client
	secrets  env.Filtered[*corev1.Secret]
	accounts lister.Of[*corev1.ServiceAccount]
	signer   *satoken.Signer
	rootCA   []byte
}

// Add wires the controller. rootCA is what the token's bearer trusts the API server by, in PEM.
func Add(e *env.Env, workers int, signer *satoken.Signer, rootCA []byte) error {
	secrets, err := env.Filter(e, &corev1.Secret{}, cache.ByObject{Field: fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken))})
	if err != nil {
		return err
	}
	accounts, err := env.Lister(e, &corev1.ServiceAccount{})
	if err != nil {
		return err
	}
	r := &reconciler{client: e.Client, secrets: secrets, accounts: accounts, signer: signer, rootCA: rootCA}
	ofAccount := func(account *corev1.ServiceAccount, q env.Queue) {
		for _, secret := range secrets.In(account.Namespace) {
			if secret.Annotations[corev1.ServiceAccountNameKey] == account.Name {
				env.Add(q, client.ObjectKeyFromObject(secret))
			}
		}
	}
	return e.Controller("serviceaccount-token", workers, r.reconcile, secrets.Watch(env.For(&corev1.Secret{})),
		env.On(&corev1.ServiceAccount{}, env.Changes[*corev1.ServiceAccount]{Created: ofAccount, Deleted: ofAccount}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	secret, ok := r.secrets.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, r.forget(ctx, req.NamespacedName)
	}
	if secret.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	account, err := r.account(ctx, secret)
	if err != nil {
		return ctrl.Result{}, err
	}
	if account == nil {
		err := r.client.Delete(ctx, secret.DeepCopy(), client.Preconditions{UID: new(secret.UID)})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("delete token: %w", err)
		}
		return ctrl.Result{}, nil
	}
	filled, err := fill(secret, account, r.rootCA, r.signer.Sign)
	if err != nil || filled == nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, client.IgnoreNotFound(r.client.Update(ctx, filled))
}

// account returns the account of a secret, or nil if it is gone. That is asked of the API server: a secret is often made right after
// its account, and deleting it cannot be undone.
func (r *reconciler) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name := secret.Annotations[corev1.ServiceAccountNameKey]
	if account, ok := r.accounts.Find(secret.Namespace, name); ok && belongs(secret, account) {
		return account, nil
	}
	account := &corev1.ServiceAccount{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: secret.Namespace, Name: name}, account)
	switch {
	case apierrors.IsNotFound(err), err == nil && !belongs(secret, account):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get service account: %w", err)
	}
	return account, nil
}

// belongs reports whether a secret is of this account, and not of one that had the same name.
func belongs(secret *corev1.Secret, account *corev1.ServiceAccount) bool {
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	return uid == "" || uid == string(account.UID)
}

// fill returns the secret with all that it should hold, or nil if it does.
func fill(secret *corev1.Secret, account *corev1.ServiceAccount, rootCA []byte, sign func(satoken.Claims) (string, error)) (*corev1.Secret, error) {
	wantCA := len(rootCA) > 0 && !bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], rootCA)
	wantNamespace := string(secret.Data[corev1.ServiceAccountNamespaceKey]) != secret.Namespace
	wantToken := len(secret.Data[corev1.ServiceAccountTokenKey]) == 0
	wantUID := secret.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID)
	if !wantCA && !wantNamespace && !wantToken && !wantUID {
		return nil, nil
	}
	filled := secret.DeepCopy()
	if filled.Data == nil {
		filled.Data = map[string][]byte{}
	}
	metav1.SetMetaDataAnnotation(&filled.ObjectMeta, corev1.ServiceAccountUIDKey, string(account.UID))
	filled.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	if wantCA {
		filled.Data[corev1.ServiceAccountRootCAKey] = rootCA
	}
	if wantToken {
		token, err := sign(satoken.LegacyClaims(account, secret))
		if err != nil {
			return nil, err
		}
		filled.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	return filled, nil
}

// forget removes a secret that is gone from the lists of the accounts that name it.
func (r *reconciler) forget(ctx context.Context, key types.NamespacedName) error {
	names := func(ref corev1.ObjectReference) bool { return ref.Name == key.Name }
	for _, account := range r.accounts.In(key.Namespace) {
		if !slices.ContainsFunc(account.Secrets, names) {
			continue
		}
		if err := r.client.Get(ctx, key, &corev1.Secret{}); !apierrors.IsNotFound(err) {
			return err
		}
		changed := account.DeepCopy()
		changed.Secrets = slices.DeleteFunc(changed.Secrets, names)
		if err := r.client.Update(ctx, changed); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	return nil
}
