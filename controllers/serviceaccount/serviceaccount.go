// Package serviceaccount gives every namespace its ServiceAccount "default".
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"keelson.dev/controllers/env"
)

const name = "default"

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	namespaces, err := env.Lister(e, &corev1.Namespace{})
	if err != nil {
		return err
	}
	accounts, err := env.Lister(e, &corev1.ServiceAccount{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		ns, ok := namespaces.Find("", req.Name)
		if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
			return ctrl.Result{}, nil
		}
		if _, ok := accounts.Find(ns.Name, name); ok {
			return ctrl.Result{}, nil
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: name}}
		err := e.Client.Create(ctx, account)
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("create service account: %w", err)
	}
	return e.Controller("serviceaccount", workers, reconcile,
		env.For(&corev1.Namespace{}),
		env.On(&corev1.ServiceAccount{}, env.Changes[*corev1.ServiceAccount]{Deleted: func(account *corev1.ServiceAccount, q env.Queue) {
			if account.Name == name {
				env.Add(q, types.NamespacedName{Name: account.Namespace})
			}
		}}))
}
