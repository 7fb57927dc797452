// Package nodestatus keeps the node's object in the API: it registers the node, renews its Lease, and reports what it has, what it is
// and how it is. A heartbeat is the Lease alone; the status is written when it changes, and every five minutes.
package nodestatus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
)

// Periods, as upstream's defaults have them.
const (
	checkPeriod   = 10 * time.Second       // of what nothing tells about: the runtime's health, pressure, images
	startPeriod   = 100 * time.Millisecond // the same until the node is ready for the first time
	reportPeriod  = 5 * time.Minute
	registerRetry = 200 * time.Millisecond
	maxImages     = 50
)

// Version is what nodes report, in step with the API that the cluster serves.
const Version = "v1.37.2"

// Config of a Manager.
type Config struct {
	Client   kubernetes.Interface
	Runtime  *cri.Client
	Clock    clock.WithTicker
	NodeName string
	Labels   map[string]string
	Taints   []corev1.Taint
	// Unschedulable registers the node cordoned.
	Unschedulable bool
	Addresses     []corev1.NodeAddress
	Capacity      corev1.ResourceList
	Allocatable   corev1.ResourceList
	Info          corev1.NodeSystemInfo
	KubeletPort   int32
	// LeaseSeconds is how long the node's heartbeat counts; it is renewed four times as often.
	LeaseSeconds int32
	// CheckPeriod is how often to look at what nothing tells about; 0 means every 10 s.
	CheckPeriod time.Duration
	// PodCIDR, if set, is what the node registers with; otherwise the cluster's controllers give it one.
	PodCIDR string
	// InUse lists the attachable volumes that pods use.
	InUse func() []corev1.UniqueVolumeName
	// Pressure reports whether a condition of the node, MemoryPressure for one, holds.
	Pressure func(corev1.NodeConditionType) bool
	// Trouble, if set, says what keeps the node from being ready beside its runtime; empty: nothing does.
	Trouble func() string
	// Extra are resources of device plugins.
	Extra func() (capacity, allocatable corev1.ResourceList)
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg   Config
	nudge chan struct{}

	mu       sync.Mutex
	node     *corev1.Node // as last seen in the API
	handlers map[string]bool
	ready    bool
}

// New returns a manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, nudge: make(chan struct{}, 1), handlers: map[string]bool{}}
}

// Node returns the node as last seen in the API, or before that as it will be registered.
func (m *Manager) Node() *corev1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node != nil {
		return m.node
	}
	return m.initial()
}

// Nudge asks for a look at the node's status now.
func (m *Manager) Nudge() {
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}

// Seen takes the node object from the watch.
func (m *Manager) Seen(node *corev1.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = node
	for name := range node.Status.Capacity {
		if _, allocatable := node.Status.Allocatable[name]; !allocatable && extended(name) {
			m.Nudge()
		}
	}
}

// RecursiveReadOnly reports whether a runtime handler can mount recursively read-only.
func (m *Manager) RecursiveReadOnly(handler string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handlers[handler]
}

// Ready reports whether the node has been ready before.
func (m *Manager) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

// Run registers the node and reports until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.register(ctx); err != nil {
		return err
	}
	renewal := time.Duration(m.cfg.LeaseSeconds) * time.Second / 4 // upstream's share
	leases := lease.NewController(m.cfg.Clock, m.cfg.Client, m.cfg.NodeName, m.cfg.LeaseSeconds, nil, renewal, m.cfg.NodeName, corev1.NamespaceNodeLease, m.ownLease)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { leases.Run(ctx) })
	reported := time.Time{}
	for {
		due := m.cfg.Clock.Since(reported) >= reportPeriod
		if wrote, err := m.report(ctx, due); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Info("Node status not written, will try again", "err", err)
		} else if wrote {
			reported = m.cfg.Clock.Now()
		}
		period := cmp.Or(m.cfg.CheckPeriod, checkPeriod)
		if !m.Ready() {
			period = startPeriod
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.nudge:
		case <-m.cfg.Clock.After(period):
		}
	}
}

// ownLease ties the Lease to the node, so that it goes with it.
func (m *Manager) ownLease(l *coordinationv1.Lease) error {
	if node := m.Node(); node.UID != "" {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return nil
}

func (m *Manager) initial() *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.cfg.NodeName, Labels: maps.Clone(m.cfg.Labels),
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec: corev1.NodeSpec{Taints: m.cfg.Taints, Unschedulable: m.cfg.Unschedulable},
	}
	if m.cfg.PodCIDR != "" {
		node.Spec.PodCIDR, node.Spec.PodCIDRs = m.cfg.PodCIDR, []string{m.cfg.PodCIDR}
	}
	node.Status.Capacity, node.Status.Allocatable = m.resources()
	return node
}

// register creates the node, or brings the labels of an existing one up to date.
func (m *Manager) register(ctx context.Context) error {
	for {
		node, err := m.tryRegister(ctx)
		if err == nil {
			m.Seen(node)
			return nil
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end is no error
		}
		klog.FromContext(ctx).Info("Node not registered, will try again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-m.cfg.Clock.After(registerRetry):
		}
	}
}

func (m *Manager) tryRegister(ctx context.Context) (*corev1.Node, error) {
	want := m.initial()
	m.fill(ctx, want)
	nodes := m.cfg.Client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		created, err := nodes.Create(ctx, want, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		have, err = nodes.Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for key, value := range want.Labels {
		if have.Labels[key] != value {
			labels[key] = value
		}
	}
	if len(labels) == 0 {
		return have, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return nil, fmt.Errorf("encode labels: %w", err)
	}
	return nodes.Patch(ctx, want.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

// report writes the status if it differs from the API's, or must be written anyway.
func (m *Manager) report(ctx context.Context, due bool) (bool, error) {
	old := m.Node()
	if old.UID == "" {
		return false, nil
	}
	node := old.DeepCopy()
	m.fill(ctx, node)
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if !due && sameStatus(&old.Status, &node.Status) {
		m.setReady(ready)
		return false, nil
	}
	before, err := json.Marshal(corev1.Node{Status: old.Status})
	if err != nil {
		return false, fmt.Errorf("encode node status: %w", err)
	}
	after, err := json.Marshal(corev1.Node{Status: node.Status})
	if err != nil {
		return false, fmt.Errorf("encode node status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
	if err != nil {
		return false, fmt.Errorf("compute node status patch: %w", err)
	}
	written, err := m.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return false, m.register(ctx) // somebody deleted the node under us
	}
	if err != nil {
		return false, err
	}
	m.setReady(ready)
	m.Seen(written)
	return true, nil
}

func (m *Manager) setReady(ready bool) {
	m.mu.Lock()
	m.ready = m.ready || ready
	m.mu.Unlock()
}

// sameStatus leaves out heartbeat times.
func sameStatus(a, b *corev1.NodeStatus) bool {
	strip := func(s *corev1.NodeStatus) *corev1.NodeStatus {
		out := s.DeepCopy()
		for i := range out.Conditions {
			out.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return out
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}
