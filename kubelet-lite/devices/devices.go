// Package devices hands out the devices of device plugins (kubelet API v1beta1) to containers: plugins register and list what they
// have, a pod is given its devices when the node admits it and keeps them until it has ended, and the plugin says what a container
// needs to use them. Who holds what is on disk, so that it is still known after a restart.
package devices

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"keelson.dev/internal/statefile"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/topology"
)

// callTimeout bounds a call to a plugin, as PreStartContainer's documentation says.
const callTimeout = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second

// Config is what a manager works with.
type Config struct {
	RootDir string // /var/lib/kubelet
	// Changed is called when there are other devices than before, and Affected for each pod that has some of the resource.
	Changed  func()
	Affected func(pod types.UID)
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	plugins map[string]*plugin // by resource
	state   state
}

// state is what must be known after a restart.
type state struct {
	Grants map[types.UID][]*grant `json:"grants"`
	// Resources are those that plugins have had, so that pods are not run without them before the plugins are back.
	Resources []string `json:"resources"`
}

// grant is what one container holds of one resource.
type grant struct {
	Container string   `json:"container"`
	Init      bool     `json:"init,omitempty"` // runs before the others and leaves its devices to them
	Resource  string   `json:"resource"`
	IDs       []string `json:"ids"`
	// Answer is what the plugin said is needed; nil until it was asked.
	Answer *pluginapi.ContainerAllocateResponse `json:"answer,omitempty"`
}

// New returns a manager that knows who held what before.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, plugins: map[string]*plugin{}}
	if err := os.MkdirAll(m.directory(), 0o750); err != nil {
		return nil, fmt.Errorf("make directory of device plugins: %w", err)
	}
	if err := statefile.LoadJSON(m.stateFile(), &m.state); err != nil {
		return nil, err
	}
	if m.state.Grants == nil {
		m.state.Grants = map[types.UID][]*grant{}
	}
	return m, nil
}

func (m *Manager) directory() string { return filepath.Join(m.cfg.RootDir, "device-plugins") }

func (m *Manager) stateFile() string { return filepath.Join(m.directory(), "keelson_devices.json") }

// save needs the lock.
func (m *Manager) save() error { return statefile.SaveJSON(m.stateFile(), m.state) }

// Resources are what the plugins offer: all devices, and the healthy ones. Those that are gone count zero.
func (m *Manager) Resources() (capacity, allocatable corev1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for _, name := range m.state.Resources {
		var all, healthy int64
		if p := m.plugins[name]; p != nil {
			all, healthy = int64(len(p.devices)), int64(len(p.healthy()))
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(all, resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(healthy, resource.DecimalSI)
	}
	return capacity, allocatable
}

// Admission chooses a pod's devices, one container after the other. It must not run beside another one.
type Admission struct {
	m      *Manager
	pod    *corev1.Pod
	known  bool // the pod has its devices
	grants []*grant
}

// Admit begins an admission. A pod that has its devices already keeps them.
func (m *Manager) Admit(pod *corev1.Pod) *Admission {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.state.Grants[pod.UID]
	return &Admission{m: m, pod: pod, known: known}
}

// Hints has a list for each resource that a container asks for of which some device says where it is; nil stands for all containers.
func (a *Admission) Hints(c *corev1.Container) (out [][]topology.Hint) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for _, want := range a.wants(c) {
		p := a.m.plugins[want.resource]
		if p == nil {
			continue
		}
		near := p.near()
		var every topology.Nodes
		for _, on := range near {
			every |= on
		}
		if every == 0 {
			continue
		}
		left := inherited(want, a.grants)
		free := slices.Concat(left, available(p.healthy(), want.resource, a.m.state.Grants, a.grants))
		count := func(ids []string, on topology.Nodes) (n int) {
			for _, id := range ids {
				if near[id]&on != 0 {
					n++
				}
			}
			return n
		}
		out = append(out, topology.Hints(every.IDs(),
			func(on topology.Nodes) bool { return count(slices.Collect(maps.Keys(near)), on) >= want.amount },
			func(on topology.Nodes) bool {
				return count(left, on) == count(left, every) && count(free, on) >= want.amount
			}))
	}
	return out
}

// wants are what one container asks for, or all of them together.
func (a *Admission) wants(c *corev1.Container) (out []request) {
	if a.known {
		return nil
	}
	all := wants(a.pod, a.m.state.Resources)
	if c != nil {
		return slices.DeleteFunc(all, func(r request) bool { return r.container != c.Name })
	}
	limits := resourcehelper.PodLimits(a.pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	for _, name := range a.m.state.Resources {
		if q, ok := limits[corev1.ResourceName(name)]; ok && slices.ContainsFunc(all, func(r request) bool { return r.resource == name }) {
			out = append(out, request{resource: name, amount: int(q.Value())})
		}
	}
	return out
}

// Take chooses devices for a container, near the nodes as far as there are some. The error says which are not to be had.
func (a *Admission) Take(ctx context.Context, c *corev1.Container, near topology.Nodes) error {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for _, want := range a.wants(c) {
		g, err := a.m.choose(ctx, a.pod.UID, want, a.grants, near)
		if err != nil {
			return err
		}
		a.grants = append(a.grants, g)
	}
	return nil
}

// Commit gives the pod what was taken.
func (a *Admission) Commit() error {
	if len(a.grants) == 0 {
		return nil
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.state.Grants[a.pod.UID] = a.grants
	return a.m.save()
}

// choose picks devices for one container: first those that the pod's earlier init containers leave, then free ones near the nodes, and of
// these the ones that the plugin prefers.
func (m *Manager) choose(ctx context.Context, pod types.UID, want request, earlier []*grant, near topology.Nodes) (*grant, error) {
	var healthy []string
	p := m.plugins[want.resource]
	if p != nil {
		healthy = p.healthy()
	}
	left := inherited(want, earlier)
	free := available(healthy, want.resource, m.state.Grants, earlier)
	ids := left[:min(len(left), want.amount)]
	missing := want.amount - len(ids)
	if missing > len(free) {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", want.resource, want.amount, len(left)+len(free))
	}
	if missing > 0 {
		ids = append(slices.Clone(ids), p.prefer(ctx, p.nearest(free, near, missing), ids, missing)...)
	}
	klog.FromContext(ctx).V(2).Info("Devices handed out", "podUID", pod, "container", want.container, "resource", want.resource, "devices", ids)
	return &grant{Container: want.container, Init: want.init, Resource: want.resource, IDs: ids}, nil
}

// Prepare asks the plugins what the pod's containers need.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) error {
	m.mu.Lock()
	grants := m.state.Grants[pod.UID]
	m.mu.Unlock()
	for _, g := range grants {
		if g.Answer != nil {
			continue
		}
		p, err := m.plugin(g.Resource)
		if err != nil {
			return err
		}
		answer, err := p.allocate(ctx, g.IDs)
		if err != nil {
			return fmt.Errorf("allocate %s: %w", g.Resource, err)
		}
		m.mu.Lock()
		g.Answer = answer
		err = m.save()
		m.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) plugin(name string) (*plugin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.plugins[name]; p != nil && !p.away {
		return p, nil
	}
	return nil, fmt.Errorf("the device plugin of %s is not registered", name)
}

// Container adds what a container's devices need, and lets the plugins make them ready for a new instance.
func (m *Manager) Container(ctx context.Context, pod *corev1.Pod, c *corev1.Container, in *cri.Instance) error {
	m.mu.Lock()
	grants := slices.Clone(m.state.Grants[pod.UID])
	m.mu.Unlock()
	for _, g := range grants {
		if g.Container != c.Name {
			continue
		}
		if g.Answer == nil {
			return fmt.Errorf("devices of %s have not been allocated", g.Resource)
		}
		if p, err := m.plugin(g.Resource); err == nil && p.options.GetPreStartRequired() {
			if err := p.preStart(ctx, g.IDs); err != nil {
				return fmt.Errorf("prepare devices of %s: %w", g.Resource, err)
			}
		}
		inject(g.Answer, in)
	}
	return nil
}

// inject adds what a plugin asked for to an instance.
func inject(answer *pluginapi.ContainerAllocateResponse, in *cri.Instance) {
	for key, value := range answer.Envs {
		in.Envs = slices.DeleteFunc(in.Envs, func(e *runtimeapi.KeyValue) bool { return e.Key == key })
		in.Envs = append(in.Envs, &runtimeapi.KeyValue{Key: key, Value: []byte(value)})
	}
	slices.SortStableFunc(in.Envs[len(in.Envs)-len(answer.Envs):], func(a, b *runtimeapi.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	for _, mount := range answer.Mounts {
		in.Mounts = append(in.Mounts, &runtimeapi.Mount{ContainerPath: mount.ContainerPath, HostPath: mount.HostPath, Readonly: mount.ReadOnly})
	}
	for _, d := range answer.Devices {
		in.Devices = append(in.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
	}
	for _, d := range answer.CdiDevices {
		in.CDIDevices = append(in.CDIDevices, d.Name)
	}
	for key, value := range answer.Annotations {
		if in.Annotations == nil {
			in.Annotations = map[string]string{}
		}
		in.Annotations[key] = value
	}
}

// Release takes back what a pod had.
func (m *Manager) Release(_ context.Context, pod types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.state.Grants[pod]; !known {
		return nil
	}
	delete(m.state.Grants, pod)
	return m.save()
}

// Orphans takes back what pods had that are not among the known ones.
func (m *Manager) Orphans(known func(types.UID) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.state.Grants)
	for pod := range m.state.Grants {
		if !known(pod) {
			delete(m.state.Grants, pod)
		}
	}
	if len(m.state.Grants) == before {
		return nil
	}
	return m.save()
}
