// Package dra makes ready what pods have claimed by dynamic resource allocation (KEP-4381): it asks the drivers of a claim's devices to
// prepare them on this node, tells the runtime which CDI devices each container gets, and has the drivers take back what no pod uses
// any more. What has been prepared for whom is on disk, since only that tells after a crash what must be taken back.
package dra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/clock"

	"keelson.dev/internal/statefile"
	"keelson.dev/kubelet-lite/cri"
)

// PrepareError says why a claim could not be prepared.
type PrepareError struct{ Err error }

// Reason is that of the event that tells of it.
func (*PrepareError) Reason() string { return "FailedPrepareDynamicResources" }

func (e *PrepareError) Error() string { return "Failed to prepare dynamic resources: " + e.Err.Error() }
func (e *PrepareError) Unwrap() error { return e.Err }

// Config is what a manager works with.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	RootDir  string // /var/lib/kubelet
	Clock    clock.WithDelayedExecution
	// Changed is called when a device of the pod is healthier or sicker than before; nil: nobody wants to know.
	Changed func(pod types.UID)
}

// Manager prepares claims. It is safe for concurrent use, and a plugins.Handler for DRA drivers.
type Manager struct {
	cfg     Config
	drivers drivers

	mu     sync.Mutex
	claims map[types.UID]*claim // all that drivers may have prepared
	health map[deviceKey]health
}

// New returns a manager that knows what was prepared before.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, drivers: drivers{byName: map[string][]*driver{}, wipes: map[string]clock.Timer{}}, claims: map[types.UID]*claim{}, health: map[deviceKey]health{}}
	return m, statefile.LoadJSON(stateFile(cfg.RootDir), &m.claims)
}

// save needs the lock.
func (m *Manager) save() error { return statefile.SaveJSON(stateFile(m.cfg.RootDir), m.claims) }

// Prepare makes all claims of a pod usable, before its sandbox is created. It may be called again.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) error {
	wanted, err := m.claimsOf(ctx, pod)
	if err == nil && len(wanted) > 0 {
		err = m.prepare(ctx, pod.UID, wanted)
	}
	if err != nil {
		return &PrepareError{fmt.Errorf("prepare dynamic resources: %w", err)}
	}
	return nil
}

// claimsOf reads the claims of a pod and checks that it may use them. Until then nothing is written down: a pod whose claims can never
// be prepared is not held up when it goes.
func (m *Manager) claimsOf(ctx context.Context, pod *corev1.Pod) ([]*resourcev1.ResourceClaim, error) {
	var out []*resourcev1.ResourceClaim
	for _, reference := range references(pod) {
		name, mustOwn, err := resourceclaim.Name(pod, &reference)
		if err != nil {
			return nil, err
		}
		if name == nil { // no claim was needed
			continue
		}
		c, err := m.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, *name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("fetch ResourceClaim %s: %w", *name, err)
		}
		if mustOwn {
			if err := resourceclaim.IsForPod(pod, c, false); err != nil {
				return nil, err
			}
		}
		if !resourceclaim.IsReservedForPod(pod, c, false) {
			return nil, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, c.Name, c.UID)
		}
		if c.Status.Allocation == nil {
			return nil, fmt.Errorf("ResourceClaim %s: claim not allocated", c.Name)
		}
		for _, name := range driversOf(c) {
			if _, err := m.drivers.current(name); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func (m *Manager) prepare(ctx context.Context, pod types.UID, wanted []*resourcev1.ResourceClaim) error {
	calls, err := m.book(pod, wanted)
	if err != nil {
		return err
	}
	for name, claims := range calls {
		if err := m.prepareBy(ctx, name, claims); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range wanted {
		if known := m.claims[c.UID]; known != nil {
			known.Prepared = true
		}
	}
	return m.save()
}

// book writes down that a pod uses claims, and returns which drivers must prepare which of them.
func (m *Manager) book(pod types.UID, wanted []*resourcev1.ResourceClaim) (map[string][]*drapb.Claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := map[string][]*drapb.Claim{}
	for _, c := range wanted {
		for _, other := range m.claims {
			if other.Namespace == c.Namespace && other.Name == c.Name && other.UID != c.UID {
				return nil, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", c.Name, other.UID)
			}
		}
		known := m.claims[c.UID]
		if known == nil {
			known = newClaim(c)
			m.claims[c.UID] = known
		}
		if known.releasing {
			return nil, fmt.Errorf("ResourceClaim %s is being unprepared", c.Name)
		}
		if !slices.Contains(known.Pods, pod) {
			known.Pods = append(known.Pods, pod)
		}
		if !known.Prepared {
			for name := range known.Drivers {
				calls[name] = append(calls[name], known.message())
			}
		}
	}
	return calls, m.save()
}

func (m *Manager) prepareBy(ctx context.Context, name string, claims []*drapb.Claim) error {
	d, err := m.drivers.current(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := d.client.NodePrepareResources(ctx, &drapb.NodePrepareResourcesRequest{Claims: claims})
	if err != nil {
		return fmt.Errorf("NodePrepareResources: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, asked := range claims {
		result, ok := answer.Claims[asked.Uid]
		if !ok {
			return fmt.Errorf("NodePrepareResources skipped ResourceClaim %s", asked.Name)
		}
		if result.GetError() != "" {
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", asked.Name, result.Error)
		}
		if known := m.claims[types.UID(asked.Uid)]; known != nil {
			known.Drivers[name] = devicesOf(result)
		}
	}
	return nil
}

// Container adds what the claims of a container give it.
func (m *Manager) Container(_ context.Context, pod *corev1.Pod, c *corev1.Container, in *cri.Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, use := range uses(pod, c) {
		known := m.find(pod.Namespace, use.claim, pod.UID)
		if known == nil {
			return fmt.Errorf("ResourceClaim %s has not been prepared", use.claim)
		}
		for _, id := range known.cdi(use.request) {
			if !slices.Contains(in.CDIDevices, id) {
				in.CDIDevices = append(in.CDIDevices, id)
			}
		}
	}
	return nil
}

func (m *Manager) find(namespace, name string, pod types.UID) *claim {
	for _, c := range m.claims {
		if c.Namespace == namespace && c.Name == name && slices.Contains(c.Pods, pod) {
			return c
		}
	}
	return nil
}

// Release has the drivers take back what only this pod used. It may be called again, and for a pod that had no claims.
func (m *Manager) Release(ctx context.Context, pod types.UID) error {
	last, err := m.leave(pod)
	errs := []error{err}
	for _, c := range last {
		errs = append(errs, m.unprepare(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

// leave takes a pod off the claims that others use too, and returns those of which it is the last user. They get no new ones.
func (m *Manager) leave(pod types.UID) ([]*claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last []*claim
	changed := false
	for _, c := range m.claims {
		at := slices.Index(c.Pods, pod)
		switch {
		case at < 0:
		case len(c.Pods) == 1:
			c.releasing = true
			last = append(last, c)
		default:
			c.Pods, changed = slices.Delete(c.Pods, at, at+1), true
		}
	}
	if !changed {
		return last, nil
	}
	return last, m.save()
}

// unprepare has all drivers take back a claim, and forgets it.
func (m *Manager) unprepare(ctx context.Context, c *claim) error {
	for name := range c.Drivers { // nobody changes a claim that is being released
		if err := m.unprepareBy(ctx, name, c); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.claims, c.UID)
	return m.save()
}

func (m *Manager) unprepareBy(ctx context.Context, name string, c *claim) error {
	d, err := m.drivers.current(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := d.client.NodeUnprepareResources(ctx, &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{c.message()}})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	result, ok := answer.Claims[string(c.UID)]
	if !ok {
		return fmt.Errorf("NodeUnprepareResources skipped ResourceClaim %s", c.Name)
	}
	if result.GetError() != "" {
		return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", c.Name, result.Error)
	}
	return nil
}

// orphanRetry is how often a driver is asked again to take back what a forgotten pod had.
const orphanRetry = 30 * time.Second

// Orphans takes back what pods had that are not among the known ones, trying until it has succeeded or ctx ends.
func (m *Manager) Orphans(ctx context.Context, known func(types.UID) bool) {
	m.mu.Lock()
	gone := map[types.UID]bool{}
	for _, c := range m.claims {
		for _, pod := range c.Pods {
			if !known(pod) {
				gone[pod] = true
			}
		}
	}
	m.mu.Unlock()
	for pod := range gone {
		go func() {
			for ctx.Err() == nil {
				err := m.Release(ctx, pod)
				if err == nil {
					return
				}
				klog.FromContext(ctx).Info("Claims of an old pod not unprepared, will try again", "podUID", pod, "err", err)
				select {
				case <-ctx.Done():
				case <-m.cfg.Clock.After(orphanRetry):
				}
			}
		}()
	}
}
