// Package trustbundle publishes the CA of the API server's serving certificate as a ClusterTrustBundle, for pods that project it.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"keelson.dev/controllers/env"
)

const (
	signer = "kubernetes.io/kube-apiserver-serving"
	prefix = "kubernetes.io:kube-apiserver-serving:"
)

// Add wires the controller. ca is the certificates in PEM.
func Add(e *env.Env, ca []byte) error {
	bundles, err := env.Filter(e, &certificatesv1.ClusterTrustBundle{}, cache.ByObject{Field: fields.OneTermEqualSelector("spec.signerName", signer)})
	if err != nil {
		return err
	}
	want := bundleOf(ca)
	reconcile := func(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
		create, remove := plan(want, bundles.All())
		if create {
			if err := e.Client.Create(ctx, want.DeepCopy()); err != nil && !apierrors.IsAlreadyExists(err) {
				return ctrl.Result{}, fmt.Errorf("publish trust bundle: %w", err)
			}
		}
		for _, old := range remove {
			if err := e.Client.Delete(ctx, old.DeepCopy(), client.Preconditions{UID: &old.UID}); err != nil && !apierrors.IsNotFound(err) {
				return ctrl.Result{}, fmt.Errorf("remove old trust bundle: %w", err)
			}
		}
		return ctrl.Result{}, nil
	}
	key := types.NamespacedName{Name: want.Name}
	begin := source.Func(func(_ context.Context, q env.Queue) error {
		env.Add(q, key) // there may be no bundle yet whose event would wake us
		return nil
	})
	return e.Controller("kube-apiserver-serving-clustertrustbundle-publisher", 1, reconcile, env.Raw(begin),
		bundles.Watch(env.Mapped(&certificatesv1.ClusterTrustBundle{}, func(*certificatesv1.ClusterTrustBundle) []types.NamespacedName {
			return []types.NamespacedName{key}
		})))
}

// bundleOf names a bundle by its content, so that servers which change to another CA publish both meanwhile.
func bundleOf(ca []byte) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%x", prefix, sha256.Sum256(ca))[:len(prefix)+32]},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(ca)},
	}
}

// plan says whether to create the wanted bundle and which to remove: all others of the signer, once the wanted one is there.
func plan(want *certificatesv1.ClusterTrustBundle, have []*certificatesv1.ClusterTrustBundle) (create bool, remove []*certificatesv1.ClusterTrustBundle) {
	same := func(b *certificatesv1.ClusterTrustBundle) bool { return b.Name == want.Name && b.Spec == want.Spec }
	if slices.ContainsFunc(have, same) {
		return false, slices.DeleteFunc(slices.Clone(have), same)
	}
	for _, b := range have {
		if b.Name == want.Name { // somebody has changed it
			return false, []*certificatesv1.ClusterTrustBundle{b}
		}
	}
	return true, nil
}
