package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
)

// namespaceReader reads a namespace from the cache, and from the API when the cache has none: it may have been made a moment ago.
type namespaceReader func(ctx context.Context, name string) (*corev1.Namespace, error)

func (d dependencies) namespaces() (namespaceReader, cache.InformerSynced) {
	informer := d.factory.Core().V1().Namespaces()
	lister := informer.Lister()
	return func(ctx context.Context, name string) (*corev1.Namespace, error) {
		namespace, err := lister.Get(name)
		if apierrors.IsNotFound(err) {
			namespace, err = d.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		}
		return namespace, err
	}, informer.Informer().HasSynced
}

// inNamespace tells whether a request is about something inside a namespace.
func inNamespace(a admission.Attributes) bool {
	return a.GetNamespace() != "" && a.GetKind().GroupKind() != corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind()
}

// namespaceAutoProvision makes the namespace of whatever is created.
func namespaceAutoProvision(d dependencies) hooks {
	informer := d.factory.Core().V1().Namespaces()
	lister := informer.Lister()
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(ctx context.Context, a admission.Attributes) error {
			if a.IsDryRun() || !inNamespace(a) {
				return nil
			}
			if _, err := lister.Get(a.GetNamespace()); err == nil {
				return nil
			}
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.GetNamespace()}}
			_, err := d.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return admission.NewForbidden(a, err)
			}
			return nil
		},
	}
}

// namespaceExists refuses requests in namespaces that are not there.
func namespaceExists(d dependencies) hooks {
	read, synced := d.namespaces()
	return hooks{synced: []cache.InformerSynced{synced}, validate: func(ctx context.Context, a admission.Attributes) error {
		if !inNamespace(a) {
			return nil
		}
		_, err := read(ctx, a.GetNamespace())
		if err != nil && !apierrors.IsNotFound(err) {
			return apierrors.NewInternalError(err)
		}
		return err
	}}
}

// podsOfNamespaces judges pods together with their namespace: first it may change them, later, after all others, only refuse them.
func (d dependencies) podsOfNamespaces(judge func(a admission.Attributes, pod *corev1.Pod, namespace *corev1.Namespace, change bool) error) hooks {
	read, synced := d.namespaces()
	hook := func(change bool) func(context.Context, admission.Attributes) error {
		return func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || !mainResource(a) {
				return nil
			}
			namespace, err := read(ctx, a.GetNamespace())
			if err != nil {
				return err
			}
			return judge(a, pod, namespace, change)
		}
	}
	return hooks{synced: []cache.InformerSynced{synced}, admit: hook(true), validate: hook(false)}
}
