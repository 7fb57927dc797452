// Package namespace empties namespaces that are being deleted, whatever kinds of objects are in them, and then lets them go.
package namespace

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// retryAfter is how long finalizers of arbitrary objects are given until the namespace is looked at again. Pods, which take longest,
// wake the controller themselves.
const retryAfter = 2 * time.Second

// Reconciler empties namespaces.
type Reconciler struct {
	Namespaces lister.Of[*corev1.Namespace]
	Pods       lister.Of[*corev1.Pod]
	Clientset  kubernetes.Interface
	Discovery  discovery.DiscoveryInterface
	Metadata   metadata.Interface
	Clock      clock.PassiveClock
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	namespaces, err := env.Lister(e, &corev1.Namespace{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Namespaces: namespaces, Pods: pods, Clientset: e.Clientset, Discovery: e.Clientset.Discovery(),
		Metadata: e.Metadata, Clock: e.Clock,
	}
	return e.Controller("namespace", workers, r.Reconcile, env.For(&corev1.Namespace{}),
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{Deleted: func(pod *corev1.Pod, q env.Queue) {
			ns, ok := namespaces.Find("", pod.Namespace)
			if ok && ns.DeletionTimestamp != nil && len(pods.In(pod.Namespace)) == 0 {
				env.Add(q, types.NamespacedName{Name: pod.Namespace})
			}
		}}))
}

// Reconcile deletes what is left in a terminating namespace and reports what holds it up.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.Namespaces.Find("", req.Name)
	if !ok || cached.DeletionTimestamp == nil {
		return ctrl.Result{}, nil
	}
	ns := cached
	if ns.Status.Phase != corev1.NamespaceTerminating {
		changed := ns.DeepCopy()
		changed.Status.Phase = corev1.NamespaceTerminating
		updated, err := r.Clientset.CoreV1().Namespaces().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return ctrl.Result{}, gone(err)
		}
		ns = updated
	}
	if len(ns.Spec.Finalizers) == 0 {
		return ctrl.Result{}, nil
	}
	found := r.empty(ctx, ns)
	if err := r.report(ctx, ns, found); err != nil {
		return ctrl.Result{}, gone(err)
	}
	if len(found.failures) > 0 || found.discovery != nil {
		return ctrl.Result{}, fmt.Errorf("empty namespace: %w", found.err())
	}
	if len(found.remaining) > 0 {
		return ctrl.Result{RequeueAfter: retryAfter}, nil
	}
	return ctrl.Result{}, gone(r.finalize(ctx, ns.Name))
}

// finalize removes our finalizer, through the subresource that alone may do it.
func (r *Reconciler) finalize(ctx context.Context, name string) error {
	ns, err := r.Clientset.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var left []corev1.FinalizerName
	for _, f := range ns.Spec.Finalizers {
		if f != corev1.FinalizerKubernetes {
			left = append(left, f)
		}
	}
	ns.Spec.Finalizers = left
	_, err = r.Clientset.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	return err
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
