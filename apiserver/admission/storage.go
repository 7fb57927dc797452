package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

const (
	claimProtection = "kubernetes.io/pvc-protection"
	volumeProtect   = "kubernetes.io/pv-protection"
	classProtection = "kubernetes.io/vac-protection"

	betaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
	defaultClass     = "storageclass.kubernetes.io/is-default-class"
	ingressClassName = "kubernetes.io/ingress.class"
)

// storageProtection keeps claims and volumes for as long as they are in use: a controller takes the finalizer off.
func storageProtection(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		if !mainResource(a) {
			return nil
		}
		var finalizer string
		switch a.GetObject().(type) {
		case *corev1.PersistentVolumeClaim:
			finalizer = claimProtection
		case *corev1.PersistentVolume:
			finalizer = volumeProtect
		case *storagev1.VolumeAttributesClass:
			finalizer = classProtection
		default:
			return nil
		}
		object := a.GetObject().(metav1.Object)
		if !slices.Contains(object.GetFinalizers(), finalizer) {
			object.SetFinalizers(append(object.GetFinalizers(), finalizer))
		}
		return nil
	}}
}

// defaultStorageClass gives claims without a class the default one, if there is one.
func defaultStorageClass(d dependencies) hooks {
	informer := d.factory.Storage().V1().StorageClasses()
	lister := informer.Lister()
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(_ context.Context, a admission.Attributes) error {
			claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
			if !ok || !mainResource(a) || claim.Spec.StorageClassName != nil || metav1.HasAnnotation(claim.ObjectMeta, corev1.BetaStorageClassAnnotation) {
				return nil
			}
			all, err := lister.List(labels.Everything())
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			class := newest(all, func(c *storagev1.StorageClass) bool {
				return c.Annotations[defaultClass] == "true" || c.Annotations[betaDefaultClass] == "true"
			})
			if class != nil {
				claim.Spec.StorageClassName = &class.Name
			}
			return nil
		},
	}
}

// defaultIngressClass does the same for ingresses.
func defaultIngressClass(d dependencies) hooks {
	informer := d.factory.Networking().V1().IngressClasses()
	lister := informer.Lister()
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(_ context.Context, a admission.Attributes) error {
			ingress, ok := a.GetObject().(*networkingv1.Ingress)
			if !ok || !mainResource(a) || ingress.Spec.IngressClassName != nil || metav1.HasAnnotation(ingress.ObjectMeta, ingressClassName) {
				return nil
			}
			all, err := lister.List(labels.Everything())
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			class := newest(all, func(c *networkingv1.IngressClass) bool {
				return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
			})
			if class != nil {
				ingress.Spec.IngressClassName = &class.Name
			}
			return nil
		},
	}
}

// newest returns the youngest object that is marked; of several of one age the first by name.
func newest[T metav1.Object](all []T, marked func(T) bool) T {
	var best T
	found := false
	for _, one := range all {
		if !marked(one) {
			continue
		}
		age, bestAge := one.GetCreationTimestamp(), metav1.Time{}
		if found {
			bestAge = best.GetCreationTimestamp()
		}
		if !found || bestAge.Before(&age) || (bestAge.Equal(&age) && one.GetName() < best.GetName()) {
			best, found = one, true
		}
	}
	return best
}

// claimResize lets a claim grow only if it is bound and its class says that its volumes can grow.
func claimResize(d dependencies) hooks {
	informer := d.factory.Storage().V1().StorageClasses()
	lister := informer.Lister()
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		validate: func(_ context.Context, a admission.Attributes) error {
			if !mainResource(a) {
				return nil
			}
			claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
			if err != nil {
				return err
			}
			old, err := oldOf[*corev1.PersistentVolumeClaim](a)
			if err != nil {
				return err
			}
			before, after := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
			if after.Cmp(before) <= 0 {
				return nil
			}
			if old.Status.Phase != corev1.ClaimBound {
				return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded"))
			}
			class, err := lister.Get(storagehelpers.GetPersistentVolumeClaimClass(claim))
			if err != nil || !ptr.Deref(class.AllowVolumeExpansion, false) || storagehelpers.GetPersistentVolumeClaimClass(old) != class.Name {
				return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
			}
			return nil
		},
	}
}

// denyExternalIPs refuses new external IPs of services, which let their author take over traffic to any address.
func denyExternalIPs(dependencies) hooks {
	return hooks{validate: func(_ context.Context, a admission.Attributes) error {
		service, ok := a.GetObject().(*corev1.Service)
		if !ok || !mainResource(a) {
			return nil
		}
		var before []string
		if old, ok := a.GetOldObject().(*corev1.Service); ok {
			before = old.Spec.ExternalIPs
		}
		for _, ip := range service.Spec.ExternalIPs {
			if !slices.Contains(before, ip) {
				return admission.NewForbidden(a, errors.New("Use of external IPs is denied by admission control")) //nolint:staticcheck // the API's wording
			}
		}
		return nil
	}}
}

// taintNodes keeps pods off a new node until it reports that it is ready.
func taintNodes(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		node, ok := a.GetObject().(*corev1.Node)
		if !ok || !mainResource(a) {
			return nil
		}
		taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
			node.Spec.Taints = append(node.Spec.Taints, taint)
		}
		return nil
	}}
}
