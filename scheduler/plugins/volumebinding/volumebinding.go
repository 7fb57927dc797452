// Package volumebinding finds nodes that can reach a pod's volumes and, for claims whose class waits for the first consumer, binds
// them to volumes of the node or asks the provisioner for new ones there.
//
// The handshake: Reserve notes the decision in memory, so that no other pod takes the same volume; PreBind writes it (claimRef of
// the PersistentVolume, the selected-node annotation of the claim) and waits until the controllers have bound the claims.
package volumebinding

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/assume"
	"keelson.dev/scheduler/plugins/hint"
	"keelson.dev/scheduler/plugins/noderesources"
)

// Name is the plugin's name.
const Name = "VolumeBinding"

const stateKey fwk.StateKey = Name

const (
	reasonMissing  = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	reasonConflict = "node(s) didn't match PersistentVolume's node affinity"
	reasonNone     = "node(s) didn't find available persistent volumes to bind"
	reasonSpace    = "node(s) did not have enough free storage"
)

// bindTimeout bounds how long PreBind waits for the provisioner, as upstream does.
const bindTimeout = 10 * time.Minute

// Plugin is the plugin.
type Plugin struct {
	handle     fwk.Handle
	timeout    time.Duration
	volumes    corelisters.PersistentVolumeLister
	claims     corelisters.PersistentVolumeClaimLister
	classes    storagelisters.StorageClassLister
	drivers    storagelisters.CSIDriverLister
	capacities storagelisters.CSIStorageCapacityLister

	assumedVolumes *assume.Overlay[*corev1.PersistentVolume]
	assumedClaims  *assume.Overlay[*corev1.PersistentVolumeClaim]
	changed        *assume.Signal
	curve          func(utilization int64) int64
}

// New makes the plugin.
func New(_ context.Context, args runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	f := h.SharedInformerFactory()
	volumes, claims := f.Core().V1().PersistentVolumes(), f.Core().V1().PersistentVolumeClaims()
	p := &Plugin{
		handle: h, timeout: bindTimeout,
		volumes: volumes.Lister(), claims: claims.Lister(), classes: f.Storage().V1().StorageClasses().Lister(),
		drivers: f.Storage().V1().CSIDrivers().Lister(), capacities: f.Storage().V1().CSIStorageCapacities().Lister(),
		assumedVolumes: assume.NewOverlay[*corev1.PersistentVolume](), assumedClaims: assume.NewOverlay[*corev1.PersistentVolumeClaim](),
		changed: assume.NewSignal(),
	}
	shape := emptiest
	if a, ok := args.(*configv1.VolumeBindingArgs); ok {
		if a.BindTimeoutSeconds != nil {
			p.timeout = time.Duration(*a.BindTimeoutSeconds) * time.Second
		}
		if len(a.Shape) > 0 {
			shape = a.Shape
		}
	}
	p.curve = noderesources.Curve(shape)
	raise := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.changed.Raise() }, UpdateFunc: func(any, any) { p.changed.Raise() }, DeleteFunc: func(any) { p.changed.Raise() },
	}
	for _, informer := range []cache.SharedIndexInformer{volumes.Informer(), claims.Informer()} {
		if _, err := informer.AddEventHandler(raise); err != nil {
			return nil, fmt.Errorf("watch volumes: %w", err)
		}
	}
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions.
func (p *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		hint.Always(fwk.StorageClass, fwk.Add|fwk.Update),
		hint.On(fwk.PersistentVolumeClaim, fwk.Add|fwk.Update, func(pod *corev1.Pod, _, claim *corev1.PersistentVolumeClaim) bool {
			return claim != nil && claim.Namespace == pod.Namespace && mounts(pod, claim.Name)
		}),
		hint.Always(fwk.PersistentVolume, fwk.Add|fwk.Update),
		hint.Always(fwk.Node, fwk.Add|fwk.UpdateNodeLabel),
		hint.Always(fwk.CSINode, fwk.Add|fwk.Update),
		hint.On(fwk.CSIDriver, fwk.Update|fwk.Delete, func(*corev1.Pod, *storagev1.CSIDriver, *storagev1.CSIDriver) bool { return true }),
		hint.Always(fwk.CSIStorageCapacity, fwk.Add|fwk.Update),
	}, nil
}

func mounts(pod *corev1.Pod, claim string) bool {
	for i := range pod.Spec.Volumes {
		if name, ok := claimName(pod, &pod.Spec.Volumes[i]); ok && name == claim {
			return true
		}
	}
	return false
}

func claimName(pod *corev1.Pod, v *corev1.Volume) (string, bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, true
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v), true
	}
	return "", false
}

// cycleState is what one pod needs: its claims, and per node what would be done there.
type cycleState struct {
	bound   []*corev1.PersistentVolumeClaim
	waiting []*corev1.PersistentVolumeClaim // wait for the first consumer
	// candidates are the volumes of the classes of the waiting claims.
	candidates map[string][]*corev1.PersistentVolume
	plans      *plans
}

// Clone implements fwk.StateData. What is planned per node is shared: a clone serves a dry run on the same claims.
func (s *cycleState) Clone() fwk.StateData { return s }

// PreFilter implements fwk.PreFilterPlugin.
func (p *Plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	s := &cycleState{candidates: map[string][]*corev1.PersistentVolume{}, plans: newPlans()}
	found := false
	for i := range pod.Spec.Volumes {
		name, ok := claimName(pod, &pod.Spec.Volumes[i])
		if !ok {
			continue
		}
		found = true
		if status := p.classify(s, pod, &pod.Spec.Volumes[i], name); !status.IsSuccess() {
			return nil, status
		}
	}
	if !found {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if len(s.waiting) > 0 {
		if err := p.listCandidates(s); err != nil {
			return nil, fwk.AsStatus(err)
		}
	}
	state.Write(stateKey, s)
	return nil, nil
}

// classify looks a claim up and sorts it in.
func (p *Plugin) classify(s *cycleState, pod *corev1.Pod, v *corev1.Volume, name string) *fwk.Status {
	refuse := func(format string, args ...any) *fwk.Status {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf(format, args...))
	}
	claim, err := p.claim(pod.Namespace, name)
	switch {
	case apierrors.IsNotFound(err) && v.Ephemeral != nil:
		return refuse("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case apierrors.IsNotFound(err):
		return refuse("persistentvolumeclaim %q not found", name)
	case err != nil:
		return fwk.AsStatus(fmt.Errorf("read claim: %w", err))
	case claim.Status.Phase == corev1.ClaimLost:
		return refuse("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return refuse("persistentvolumeclaim %q is being deleted", name)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return refuse("%v", err)
		}
	}
	if fullyBound(claim) {
		s.bound = append(s.bound, claim)
		return nil
	}
	delayed, err := volume.IsDelayBindingMode(claim, p.classes)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read storage class: %w", err))
	}
	// A claim that names its volume is bound by the controller, whatever its class says.
	if !delayed || claim.Spec.VolumeName != "" {
		return refuse("pod has unbound immediate PersistentVolumeClaims")
	}
	s.waiting = append(s.waiting, claim)
	return nil
}

func fullyBound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && completed
}

func (p *Plugin) claim(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	claim, err := p.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return p.assumedClaims.Over(claim), nil
}

func (p *Plugin) volume(name string) (*corev1.PersistentVolume, error) {
	v, err := p.volumes.Get(name)
	if err != nil {
		return nil, err
	}
	return p.assumedVolumes.Over(v), nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (*Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter implements fwk.FilterPlugin.
func (p *Plugin) Filter(_ context.Context, state fwk.CycleState, _ *corev1.Pod, info fwk.NodeInfo) *fwk.Status {
	s, err := read(state)
	if err != nil {
		return fwk.AsStatus(err)
	}
	plan, reasons, err := p.planFor(s, info.Node())
	if err != nil {
		return fwk.AsStatus(err)
	}
	if len(reasons) > 0 {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasons...)
	}
	s.plans.set(info.Node().Name, plan)
	return nil
}

func read(state fwk.CycleState) (*cycleState, error) {
	data, err := state.Read(stateKey)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stateKey, err)
	}
	return data.(*cycleState), nil
}
