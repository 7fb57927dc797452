// Package tokens serves service account tokens: it checks the ones that requests carry, issues new ones through the
// serviceaccounts/token subresource, and publishes the keys that relying parties verify them with.
package tokens

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Objects finds what tokens are bound to.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	// LabelSecret sets one label, unless the secret has been replaced by another of its name.
	LabelSecret(ctx context.Context, secret *corev1.Secret, key, value string) error
}

// NewObjects reads service accounts and pods from the informers, and asks the API where they know nothing (yet). Secrets and
// nodes are always asked for: they are too many or too seldom needed to be kept in memory for this.
func NewObjects(client kubernetes.Interface, factory informers.SharedInformerFactory) Objects {
	return &liveObjects{
		client:          client,
		serviceAccounts: factory.Core().V1().ServiceAccounts().Lister(),
		pods:            factory.Core().V1().Pods().Lister(),
	}
}

type liveObjects struct {
	client          kubernetes.Interface
	serviceAccounts corelisters.ServiceAccountLister
	pods            corelisters.PodLister
}

func (o *liveObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := o.serviceAccounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *liveObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := o.pods.Pods(namespace).Get(name); err == nil {
		return pod, nil
	}
	return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Secret is served from the watch cache, which is as fresh as an informer, and from the store when the cache has none.
func (o *liveObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret, err := o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return secret, err
}

func (o *liveObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	return node, err
}

func (o *liveObjects) LabelSecret(ctx context.Context, secret *corev1.Secret, key, value string) error {
	patch, err := json.Marshal(applycorev1.Secret(secret.Name, secret.Namespace).WithUID(secret.UID).WithLabels(map[string]string{key: value}))
	if err != nil {
		return err
	}
	_, err = o.client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
