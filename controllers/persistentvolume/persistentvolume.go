// Package persistentvolume binds claims to volumes, one to one. Volumes are made and deleted by provisioners outside of this process;
// the binder asks for them and takes note.
package persistentvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// Binder binds claims and volumes.
type Binder struct {
	Client   client.Client
	Claims   lister.Of[*corev1.PersistentVolumeClaim]
	Volumes  lister.Of[*corev1.PersistentVolume]
	Classes  lister.Of[*storagev1.StorageClass]
	Recorder record.EventRecorder
	now      func() time.Time
}

// Add wires the controllers of claims and of volumes.
func Add(e *env.Env, workers int) error {
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	volumes, err := env.Lister(e, &corev1.PersistentVolume{})
	if err != nil {
		return err
	}
	classes, err := env.Lister(e, &storagev1.StorageClass{})
	if err != nil {
		return err
	}
	b := &Binder{Client: e.Client, Claims: claims, Volumes: volumes, Classes: classes, Recorder: e.Recorder("persistentvolume-controller"), now: e.Clock.Now}
	waiting := func() []types.NamespacedName {
		var keys []types.NamespacedName
		for _, claim := range claims.All() {
			if claim.Status.Phase != corev1.ClaimBound {
				keys = append(keys, client.ObjectKeyFromObject(claim))
			}
		}
		return keys
	}
	err = e.Controller("persistentvolumeclaim-binder", workers, b.syncClaim, env.For(&corev1.PersistentVolumeClaim{}),
		env.Mapped(&corev1.PersistentVolume{}, func(v *corev1.PersistentVolume) []types.NamespacedName {
			if ref := v.Spec.ClaimRef; ref != nil {
				return []types.NamespacedName{{Namespace: ref.Namespace, Name: ref.Name}}
			}
			return waiting() // a free volume may suit anybody
		}),
		env.Mapped(&storagev1.StorageClass{}, func(*storagev1.StorageClass) []types.NamespacedName { return waiting() }))
	if err != nil {
		return err
	}
	return e.Controller("persistentvolume-binder", workers, b.syncVolume, env.For(&corev1.PersistentVolume{}),
		env.Mapped(&corev1.PersistentVolumeClaim{}, func(c *corev1.PersistentVolumeClaim) []types.NamespacedName {
			if c.Spec.VolumeName == "" {
				return nil
			}
			return []types.NamespacedName{{Name: c.Spec.VolumeName}}
		}))
}

func (b *Binder) syncClaim(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim, ok := b.Claims.Find(req.Namespace, req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	if metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
		return ctrl.Result{}, b.keepBound(ctx, claim)
	}
	if claim.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	if claim.Spec.VolumeName != "" {
		return ctrl.Result{}, b.bindAsAsked(ctx, claim)
	}
	return ctrl.Result{}, b.findVolume(ctx, claim)
}

// keepBound checks on a claim that was bound once.
func (b *Binder) keepBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, ok := b.Volumes.Find("", claim.Spec.VolumeName)
	switch {
	case !ok:
		return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return b.bind(ctx, v, claim)
	}
	return b.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func (b *Binder) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase != corev1.ClaimLost {
		b.Recorder.Event(claim, corev1.EventTypeWarning, reason, message)
	}
	return b.claimStatus(ctx, claim, corev1.ClaimLost, nil)
}

// bindAsAsked binds a claim that names its volume.
func (b *Binder) bindAsAsked(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, ok := b.Volumes.Find("", claim.Spec.VolumeName)
	if !ok {
		return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
	}
	if v.Spec.ClaimRef == nil {
		if problem := mismatch(v, claim); problem != "" {
			b.Recorder.Event(claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, problem))
			return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
		}
		return b.bind(ctx, v, claim)
	}
	if volume.IsVolumeBoundToClaim(v, claim) {
		return b.bind(ctx, v, claim)
	}
	if !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBoundByController) {
		b.Recorder.Event(claim, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
	}
	return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// mismatch says why a volume does not suit a claim that asks for it by name; empty if it does.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	wanted, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case have.Cmp(wanted) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	}
	return ""
}

// findVolume looks for a volume that suits a claim, or has one made.
func (b *Binder) findVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delayed, err := volume.IsDelayBindingMode(claim, storagelisters.NewStorageClassLister(b.Classes.Indexer))
	if err != nil {
		return err
	}
	found, err := volume.FindMatchingVolume(claim, b.Volumes.All(), nil, nil, delayed, true)
	if err != nil {
		return fmt.Errorf("find volume: %w", err)
	}
	if found != nil {
		return b.bind(ctx, found, claim)
	}
	class := volume.GetPersistentVolumeClaimClass(claim)
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		b.Recorder.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case class != "":
		return b.provision(ctx, claim, class)
	default:
		b.Recorder.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// provision asks the provisioner of the class, by annotation, to make a volume.
func (b *Binder) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, name string) error {
	class, ok := b.Classes.Find("", name)
	if !ok {
		b.Recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)
		return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
	}
	if class.Provisioner == volume.NotSupportedProvisioner {
		b.Recorder.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and the storage class provisions none")
		return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != class.Provisioner {
		changed := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
		if err := b.Client.Update(ctx, changed); err != nil {
			return client.IgnoreNotFound(err)
		}
		claim = changed
	}
	b.Recorder.Eventf(claim, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
	return b.claimStatus(ctx, claim, corev1.ClaimPending, nil)
}

// bind writes both ends of the bond, the volume's first: whoever gets the volume has won.
func (b *Binder) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	bound, dirty, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return fmt.Errorf("bind volume: %w", err)
	}
	if dirty {
		bound = bound.DeepCopy()
		if err := b.Client.Update(ctx, bound); err != nil {
			return fmt.Errorf("bind volume %s: %w", v.Name, err)
		}
	}
	if err := b.volumeStatus(ctx, bound, corev1.VolumeBound, ""); err != nil {
		return err
	}
	changed := claim.DeepCopy()
	if changed.Spec.VolumeName != v.Name {
		changed.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(changed.ObjectMeta, volume.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
	if !equality.Semantic.DeepEqual(claim, changed) {
		if err := b.Client.Update(ctx, changed); err != nil {
			return fmt.Errorf("bind claim: %w", err)
		}
	}
	return b.claimStatus(ctx, changed, corev1.ClaimBound, bound)
}

func (b *Binder) claimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) error {
	changed := claim.DeepCopy()
	changed.Status.Phase = phase
	if v == nil {
		changed.Status.AccessModes, changed.Status.Capacity = nil, nil
	} else {
		changed.Status.AccessModes = v.Spec.AccessModes
		if claim.Status.Phase != corev1.ClaimBound || changed.Status.Capacity == nil {
			changed.Status.Capacity = v.Spec.Capacity // later changes are those of an expansion, which reports them itself
		}
		if changed.Status.CurrentVolumeAttributesClassName == nil {
			changed.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
	}
	if equality.Semantic.DeepEqual(claim.Status, changed.Status) {
		return nil
	}
	return client.IgnoreNotFound(b.Client.Status().Update(ctx, changed))
}

func (b *Binder) volumeStatus(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) error {
	if v.Status.Phase == phase && v.Status.Message == message {
		return nil
	}
	changed := v.DeepCopy()
	if changed.Status.Phase != phase {
		now := metav1.NewTime(b.now())
		changed.Status.LastPhaseTransitionTime = &now
	}
	changed.Status.Phase, changed.Status.Message = phase, message
	if err := b.Client.Status().Update(ctx, changed); err != nil {
		return client.IgnoreNotFound(err)
	}
	changed.DeepCopyInto(v)
	return nil
}

func (b *Binder) syncVolume(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := b.Volumes.Find("", req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	v := cached.DeepCopy()
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return ctrl.Result{}, b.volumeStatus(ctx, v, corev1.VolumeAvailable, "")
	}
	claim, err := b.claimOf(ctx, ref)
	switch {
	case err != nil:
		return ctrl.Result{}, err
	case claim == nil:
		return ctrl.Result{}, b.release(ctx, v)
	case claim.Spec.VolumeName == v.Name:
		return ctrl.Result{}, b.volumeStatus(ctx, v, corev1.VolumeBound, "")
	case claim.Spec.VolumeName == "":
		return ctrl.Result{}, nil // the claim's own turn completes the bond
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return ctrl.Result{}, b.release(ctx, v) // made for a claim that found another one meanwhile
	}
	return ctrl.Result{}, b.unbind(ctx, v)
}

// claimOf returns the claim that a volume is bound to, or nil if it is gone.
func (b *Binder) claimOf(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	if claim, ok := b.Claims.Find(ref.Namespace, ref.Name); ok && claim.UID == ref.UID {
		return claim, nil
	}
	claim := &corev1.PersistentVolumeClaim{} // releasing deletes data: make sure
	err := b.Client.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, claim)
	switch {
	case apierrors.IsNotFound(err), err == nil && claim.UID != ref.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get claim: %w", err)
	}
	return claim, nil
}

// release marks a volume whose claim is gone. With the policy Delete its provisioner takes it from there.
func (b *Binder) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		return b.volumeStatus(ctx, v, corev1.VolumeFailed, "Recycling is not supported")
	}
	if v.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	return b.volumeStatus(ctx, v, corev1.VolumeReleased, "")
}

// unbind takes back a bond that the claim did not keep. One that a person made stays, without the uid.
func (b *Binder) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	changed := v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		changed.Spec.ClaimRef = nil
		delete(changed.Annotations, volume.AnnBoundByController)
	} else {
		changed.Spec.ClaimRef.UID = ""
	}
	if err := b.Client.Update(ctx, changed); err != nil {
		return client.IgnoreNotFound(err)
	}
	return b.volumeStatus(ctx, changed, corev1.VolumeAvailable, "")
}
