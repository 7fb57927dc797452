// Package devices is what the plugins of all profiles share of dynamic resource allocation: which devices there are and which are
// taken, allocations that are only decided included, and which device class stands for an extended resource.
package devices

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/plugins/assume"
)

// Manager implements fwk.SharedDRAManager and its parts. It is safe for concurrent use.
type Manager struct {
	claims        resourcelisters.ResourceClaimLister
	classes       classLister
	classInformer cache.SharedIndexInformer
	names         *extendedresourcecache.ExtendedResourceCache
	slices        *tracker.Tracker

	assumed *assume.Overlay[*resourceapi.ResourceClaim]
	mu      sync.Mutex
	pending map[types.UID]*pending
}

var (
	_ fwk.SharedDRAManager     = &Manager{}
	_ fwk.ResourceClaimTracker = &Manager{}
)

// New returns a manager that follows the informers; nil if the API server does not serve resource.k8s.io/v1, where a watch would never
// begin. Rules for device taints are followed if it serves them.
func New(ctx context.Context, served discovery.DiscoveryInterface, f informers.SharedInformerFactory) (*Manager, error) {
	list, err := served.ServerResourcesForGroupVersion(resourceapi.SchemeGroupVersion.String())
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", resourceapi.SchemeGroupVersion, err)
	}
	v1 := f.Resource().V1()
	m := &Manager{
		claims: v1.ResourceClaims().Lister(), classes: classLister{v1.DeviceClasses().Lister()}, classInformer: v1.DeviceClasses().Informer(),
		names:   extendedresourcecache.NewExtendedResourceCache(klog.FromContext(ctx)),
		assumed: assume.NewOverlay[*resourceapi.ResourceClaim](), pending: map[types.UID]*pending{},
	}
	m.slices, err = tracker.StartTracker(ctx, tracker.Options{
		EnableDeviceTaintRules: slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "devicetaintrules" }),
		SliceInformer:          v1.ResourceSlices(), TaintInformer: v1.DeviceTaintRules(), EnableConsumableCapacity: true,
	})
	if err != nil {
		return nil, fmt.Errorf("follow resource slices: %w", err)
	}
	return m, nil
}

// Stop ends what runs in the background.
func (m *Manager) Stop() { m.slices.Stop() }

// Slices are the resource slices with the taints of the rules, to watch.
func (m *Manager) Slices() Source { return m.slices }

// Classes are the device classes, to watch: the handler is called when GetDeviceClass knows of the change.
func (m *Manager) Classes() Source { return classSource{m} }

// Source can be watched.
type Source interface {
	AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
}

type classSource struct{ m *Manager }

// AddEventHandler implements Source. It is called once at most.
func (s classSource) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	s.m.names.AddEventHandler(h)
	return s.m.classInformer.AddEventHandler(s.m.names)
}

// Backs says whether one of the named resources stands for a device class.
func (m *Manager) Backs(resources map[corev1.ResourceName]int64) bool {
	if m == nil {
		return false
	}
	for name := range resources {
		if m.names.GetDeviceClass(name) != nil {
			return true
		}
	}
	return false
}

// ResourceClaims implements fwk.SharedDRAManager.
func (m *Manager) ResourceClaims() fwk.ResourceClaimTracker { return m }

// ResourceSlices implements fwk.SharedDRAManager.
func (m *Manager) ResourceSlices() fwk.ResourceSliceLister { return sliceLister{m.slices} }

// DeviceClasses implements fwk.SharedDRAManager.
func (m *Manager) DeviceClasses() fwk.DeviceClassLister { return m.classes }

// DeviceClassResolver implements fwk.SharedDRAManager.
func (m *Manager) DeviceClassResolver() fwk.DeviceClassResolver { return m.names }

type sliceLister struct{ *tracker.Tracker }

// ListWithDeviceTaintRules implements fwk.ResourceSliceLister.
func (s sliceLister) ListWithDeviceTaintRules() ([]*resourceapi.ResourceSlice, error) {
	return s.ListPatchedResourceSlices()
}

type classLister struct {
	resourcelisters.DeviceClassLister
}

// List implements fwk.DeviceClassLister.
func (c classLister) List() ([]*resourceapi.DeviceClass, error) {
	return c.DeviceClassLister.List(labels.Everything())
}
