// Package rootca publishes the certificate authority of the API server in every namespace, where pods find it beside their token.
package rootca

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"keelson.dev/controllers/env"
)

// Name is the ConfigMap that carries the certificates under the key ca.crt.
const Name = "kube-root-ca.crt"

const descriptionKey, description = "kubernetes.io/description",
	"Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."

// Add wires the controller. bundle is the certificates in PEM.
func Add(e *env.Env, workers int, bundle []byte) error {
	namespaces, err := env.Lister(e, &corev1.Namespace{})
	if err != nil {
		return err
	}
	maps, err := env.Lister(e, &corev1.ConfigMap{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		ns, ok := namespaces.Find("", req.Name)
		if !ok || ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
			return ctrl.Result{}, nil
		}
		found, _ := maps.Find(ns.Name, Name)
		return ctrl.Result{}, publish(ctx, e, ns.Name, found, map[string]string{"ca.crt": string(bundle)})
	}
	changed := func(cm *corev1.ConfigMap, q env.Queue) {
		if cm.Name == Name {
			env.Add(q, types.NamespacedName{Name: cm.Namespace})
		}
	}
	return e.Controller("root-ca-certificate-publisher", workers, reconcile,
		env.For(&corev1.Namespace{}),
		env.On(&corev1.ConfigMap{}, env.Changes[*corev1.ConfigMap]{
			Updated: func(_, after *corev1.ConfigMap, q env.Queue) { changed(after, q) }, Deleted: changed,
		}))
}

func publish(ctx context.Context, e *env.Env, namespace string, found *corev1.ConfigMap, data map[string]string) error {
	if found == nil {
		cm := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name, Annotations: map[string]string{descriptionKey: description}},
			Data:       data,
		}
		err := e.Client.Create(ctx, cm)
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create %s: %w", Name, err)
	}
	if maps.Equal(found.Data, data) && found.Annotations[descriptionKey] == description {
		return nil
	}
	cm := found.DeepCopy()
	cm.Data = data
	metav1.SetMetaDataAnnotation(&cm.ObjectMeta, descriptionKey, description)
	if err := e.Client.Update(ctx, cm); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update %s: %w", Name, err)
	}
	return nil
}
