package devices

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/plugins"
	"keelson.dev/kubelet-lite/topology"
)

// plugin is one resource and the plugin that has its devices.
type plugin struct {
	endpoint string
	conn     *grpc.ClientConn
	client   pluginapi.DevicePluginClient
	away     bool // its stream has ended
	options  *pluginapi.DevicePluginOptions
	devices  []*pluginapi.Device
}

// healthy are the devices that may be handed out, in order.
func (p *plugin) healthy() []string {
	var out []string
	for _, d := range p.devices {
		if !p.away && d.Health == pluginapi.Healthy {
			out = append(out, d.ID)
		}
	}
	slices.Sort(out)
	return out
}

// near tells which NUMA nodes each device is on, of those that say so.
func (p *plugin) near() map[string]topology.Nodes {
	near := map[string]topology.Nodes{}
	for _, d := range p.devices {
		for _, n := range d.Topology.GetNodes() {
			near[d.ID] |= 1 << n.ID
		}
	}
	return near
}

// nearest are the free devices to choose n from: those near the nodes if they suffice, else these and as many of the others as are missing.
func (p *plugin) nearest(free []string, nodes topology.Nodes, n int) []string {
	near, local, far := p.near(), []string{}, []string{}
	for _, id := range free {
		if near[id]&nodes != 0 {
			local = append(local, id)
			continue
		}
		far = append(far, id)
	}
	switch {
	case len(local) == 0:
		return far
	case len(local) < n:
		return append(local, far[:n-len(local)]...)
	}
	return local
}

// prefer chooses n of the free devices, as the plugin prefers if it says so.
func (p *plugin) prefer(ctx context.Context, free, have []string, n int) []string {
	if !p.options.GetGetPreferredAllocationAvailable() {
		return free[:n]
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := p.client.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: append(slices.Clone(free), have...), MustIncludeDeviceIDs: have, AllocationSize: int32(n + len(have)),
	}}})
	if err != nil || len(answer.ContainerResponses) != 1 {
		klog.FromContext(ctx).Info("Device plugin has no preference", "endpoint", p.endpoint, "err", err)
		return free[:n]
	}
	var out []string
	for _, id := range append(answer.ContainerResponses[0].DeviceIDs, free...) {
		if len(out) < n && slices.Contains(free, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

func (p *plugin) allocate(ctx context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := p.client.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	if len(answer.ContainerResponses) != 1 {
		return nil, fmt.Errorf("the plugin answered for %d containers instead of one", len(answer.ContainerResponses))
	}
	return answer.ContainerResponses[0], nil
}

func (p *plugin) preStart(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := p.client.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: ids})
	return err
}

// registry answers plugins that register themselves at kubelet.sock.
type registry struct {
	pluginapi.UnimplementedRegistrationServer

	m   *Manager
	ctx context.Context //nolint:containedctx // bounds the streams that outlive the calls that start them
}

func (r registry) Register(_ context.Context, in *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if !slices.Contains(pluginapi.SupportedVersions[:], in.Version) {
		return nil, fmt.Errorf("requested API version %q is not supported by kubelet. Supported versions are %q", in.Version, pluginapi.SupportedVersions)
	}
	return &pluginapi.Empty{}, r.m.connect(r.ctx, in.ResourceName, filepath.Join(r.m.directory(), filepath.Base(in.Endpoint)), in.Options) //nolint:contextcheck // the stream outlives the call
}

// Run answers plugins until ctx ends. Plugins register again when they see a new kubelet.sock.
func (m *Manager) Run(ctx context.Context) error {
	socket := filepath.Join(m.directory(), filepath.Base(pluginapi.KubeletSocket))
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for device plugins: %w", err)
	}
	server := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(server, registry{m: m, ctx: ctx})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve device plugins: %w", err)
	}
	return nil
}

// Register takes a plugin that was found in the plugin directory.
func (m *Manager) Register(ctx context.Context, found plugins.Plugin) error {
	return m.connect(context.WithoutCancel(ctx), found.Name, found.Endpoint, nil)
}

// Deregister need not do anything: the plugin's stream ends.
func (*Manager) Deregister(context.Context, plugins.Plugin) {}

func (m *Manager) connect(ctx context.Context, name, endpoint string, options *pluginapi.DevicePluginOptions) error {
	if !admit.IsExtended(corev1.ResourceName(name)) {
		return fmt.Errorf("the ResourceName %q is invalid", name)
	}
	conn, err := plugins.Dial(endpoint)
	if err != nil {
		return err
	}
	p := &plugin{endpoint: endpoint, conn: conn, client: pluginapi.NewDevicePluginClient(conn), options: options}
	if options == nil {
		asked, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if p.options, err = p.client.GetDevicePluginOptions(asked, &pluginapi.Empty{}); err != nil {
			return errors.Join(fmt.Errorf("ask device plugin for its options: %w", err), conn.Close())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.plugins[name]; old != nil {
		p.devices = old.devices // until it lists its own
		_ = old.conn.Close()
	}
	m.plugins[name] = p
	if !slices.Contains(m.state.Resources, name) {
		m.state.Resources = append(m.state.Resources, name)
		slices.Sort(m.state.Resources)
		if err := m.save(); err != nil {
			return err
		}
	}
	go m.follow(ctx, name, p)
	return nil
}

// goneAfter is how long the devices of a plugin that is away still count as there, though unhealthy.
const goneAfter = 5 * time.Minute

// follow keeps the list of a plugin's devices until its stream ends.
func (m *Manager) follow(ctx context.Context, name string, p *plugin) {
	logger := klog.FromContext(ctx).WithValues("resource", name)
	stream, err := p.client.ListAndWatch(ctx, &pluginapi.Empty{})
	for err == nil {
		var list *pluginapi.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			m.mu.Lock()
			p.devices = list.Devices
			m.mu.Unlock()
			m.tell(name)
		}
	}
	logger.Info("Device plugin is gone", "err", err)
	m.mu.Lock()
	p.away = true
	m.mu.Unlock()
	_ = p.conn.Close()
	m.tell(name)
	select {
	case <-ctx.Done():
		return
	case <-time.After(goneAfter):
	}
	m.mu.Lock()
	if m.plugins[name] == p {
		delete(m.plugins, name)
	}
	m.mu.Unlock()
	m.cfg.Changed()
}
