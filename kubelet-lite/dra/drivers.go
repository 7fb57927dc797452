package dra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/klog/v2"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drahealthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	drapbv1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/plugins"
)

const (
	// callTimeout bounds one call to a driver.
	callTimeout = 45 * time.Second
	// wipeAfter is how long a driver may be away, as in an update, before what it offered on this node is withdrawn.
	wipeAfter = 30 * time.Second
)

// driver is one instance of a driver.
type driver struct {
	endpoint string
	conn     *grpc.ClientConn
	client   drapb.DRAPluginClient
	stop     context.CancelFunc
}

func (d *driver) connected() bool {
	state := d.conn.GetState()
	return state == connectivity.Ready || state == connectivity.Idle
}

// drivers are the instances by driver name, the newest last: while a driver is updated, two of them serve.
type drivers struct {
	mu     sync.Mutex
	byName map[string][]*driver
	wipes  map[string]clock.Timer // running out for drivers that are away
}

// current is the newest instance that is connected, or the newest if none is.
func (d *drivers) current(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.byName[name]
	for _, one := range slices.Backward(all) {
		if one.connected() {
			return one, nil
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	return all[len(all)-1], nil
}

// Register takes a driver into service.
func (m *Manager) Register(ctx context.Context, plugin plugins.Plugin) error {
	speaks := func(service string) bool { return slices.Contains(plugin.Versions, service) }
	if !speaks(drapb.DRAPluginService) && !speaks(drapbv1beta1.DRAPluginService) {
		return fmt.Errorf("DRA driver %s supports %v, and neither %s nor %s", plugin.Name, plugin.Versions, drapb.DRAPluginService, drapbv1beta1.DRAPluginService)
	}
	conn, err := plugins.Dial(plugin.Endpoint)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	one := &driver{endpoint: plugin.Endpoint, conn: conn, client: drapb.NewDRAPluginClient(conn), stop: stop}
	if !speaks(drapb.DRAPluginService) {
		one.client = drapbv1beta1.V1Beta1ClientWrapper{DRAPluginClient: drapbv1beta1.NewDRAPluginClient(conn)}
	}
	m.drivers.mu.Lock()
	defer m.drivers.mu.Unlock()
	for _, old := range m.drivers.byName[plugin.Name] {
		if old.endpoint == plugin.Endpoint {
			stop()
			return errors.Join(fmt.Errorf("endpoint %s already registered for DRA driver %s", plugin.Endpoint, plugin.Name), conn.Close())
		}
	}
	m.drivers.byName[plugin.Name] = append(m.drivers.byName[plugin.Name], one)
	m.keep(plugin.Name)
	go m.follow(ctx, plugin.Name, one)
	switch {
	case speaks(drahealth.DRAResourceHealthService):
		go m.followHealth(ctx, plugin.Name, drahealth.NewDRAResourceHealthClient(conn))
	case speaks(drahealthv1alpha1.DRAResourceHealthService):
		go m.followHealth(ctx, plugin.Name, drahealth.V1Alpha1ClientWrapper{Client: drahealthv1alpha1.NewDRAResourceHealthClient(conn)})
	}
	return nil
}

// Deregister takes an instance out of service.
func (m *Manager) Deregister(ctx context.Context, plugin plugins.Plugin) {
	m.drivers.mu.Lock()
	defer m.drivers.mu.Unlock()
	m.drivers.byName[plugin.Name] = slices.DeleteFunc(m.drivers.byName[plugin.Name], func(one *driver) bool {
		if one.endpoint != plugin.Endpoint {
			return false
		}
		one.stop()
		_ = one.conn.Close() // calls in flight fail and are made again
		return true
	})
	m.wipeUnlessServed(ctx, plugin.Name)
}

// follow keeps the connection to an instance up and notices when it breaks: a driver that was killed does not deregister.
func (m *Manager) follow(ctx context.Context, name string, one *driver) {
	for {
		one.conn.Connect()
		state := one.conn.GetState()
		m.drivers.mu.Lock()
		switch state {
		case connectivity.Ready:
			m.keep(name)
		case connectivity.TransientFailure:
			m.wipeUnlessServed(ctx, name)
		default: // between the two
		}
		m.drivers.mu.Unlock()
		if !one.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// keep ends a countdown. The lock is held.
func (m *Manager) keep(name string) {
	if timer := m.drivers.wipes[name]; timer != nil {
		timer.Stop()
		delete(m.drivers.wipes, name)
	}
}

// wipeUnlessServed begins the countdown to withdraw what a driver offers unless an instance of it is connected. The lock is held.
func (m *Manager) wipeUnlessServed(ctx context.Context, name string) {
	if m.drivers.wipes[name] != nil || slices.ContainsFunc(m.drivers.byName[name], (*driver).connected) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	m.drivers.wipes[name] = m.cfg.Clock.AfterFunc(wipeAfter, func() { m.wipe(ctx, name) })
}

// wipe withdraws the ResourceSlices of a driver on this node. What fails is tried again while the driver stays away.
func (m *Manager) wipe(ctx context.Context, name string) {
	m.drivers.mu.Lock()
	_, due := m.drivers.wipes[name]
	delete(m.drivers.wipes, name)
	m.drivers.mu.Unlock()
	if !due {
		return
	}
	selector := fields.Set{resourcev1.ResourceSliceSelectorNodeName: m.cfg.NodeName, resourcev1.ResourceSliceSelectorDriver: name}
	err := m.cfg.Client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		klog.FromContext(ctx).Error(err, "ResourceSlices of a driver that is gone were not deleted", "driver", name)
		m.drivers.mu.Lock()
		defer m.drivers.mu.Unlock()
		m.wipeUnlessServed(ctx, name)
	}
}

// WipeUnknown withdraws, after the usual time, what drivers offer that were here before the agent started and do not come back.
func (m *Manager) WipeUnknown(ctx context.Context) error {
	list, err := m.cfg.Client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorNodeName, m.cfg.NodeName).String(),
	})
	if err != nil {
		return fmt.Errorf("list ResourceSlices of this node: %w", err)
	}
	m.drivers.mu.Lock()
	defer m.drivers.mu.Unlock()
	for i := range list.Items {
		m.wipeUnlessServed(ctx, list.Items[i].Spec.Driver)
	}
	return nil
}
