package dra

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"keelson.dev/internal/features"
)

// deviceKey is a device of a driver, in its pool.
type deviceKey struct{ driver, pool, name string }

// health is what a driver last said of a device (KEP-4680).
type health struct {
	status  corev1.ResourceHealthStatus
	message string
	until   time.Time // after which it is not known any more
}

const (
	// healthTimeout is how long a report counts that does not say.
	healthTimeout = 30 * time.Second
	// healthRetry is how often a driver is asked again whose stream of reports has ended.
	healthRetry = 5 * time.Second
)

// followHealth keeps what an instance of a driver tells of its devices until ctx ends.
func (m *Manager) followHealth(ctx context.Context, driver string, client drahealth.DRAResourceHealthClient) {
	for ctx.Err() == nil {
		stream, err := client.NodeWatchResources(ctx, &drahealth.NodeWatchResourcesRequest{})
		for err == nil {
			var report *drahealth.NodeWatchResourcesResponse
			if report, err = stream.Recv(); err == nil {
				m.reported(driver, report)
			}
		}
		select {
		case <-ctx.Done():
		case <-m.cfg.Clock.After(healthRetry):
		}
	}
}

// reported takes a report, which speaks of all devices of the driver: of others nothing is known any more.
func (m *Manager) reported(driver string, report *drahealth.NodeWatchResourcesResponse) {
	now, longest := m.cfg.Clock.Now(), time.Duration(0)
	m.mu.Lock()
	before := maps.Clone(m.health)
	maps.DeleteFunc(m.health, func(key deviceKey, _ health) bool { return key.driver == driver })
	for _, d := range report.GetDevices() {
		h := health{status: corev1.ResourceHealthStatusUnknown, message: d.GetMessage()}
		switch d.GetHealth() {
		case drahealth.HealthStatus_HEALTHY:
			h.status = corev1.ResourceHealthStatusHealthy
		case drahealth.HealthStatus_UNHEALTHY:
			h.status = corev1.ResourceHealthStatusUnhealthy
		default: // unknown
		}
		if len(h.message) > corev1.ResourceHealthMessageMaxLength {
			h.message = strings.ToValidUTF8(h.message[:corev1.ResourceHealthMessageMaxLength-3], "") + "..."
		}
		timeout := healthTimeout
		if s := d.GetHealthCheckTimeoutSeconds(); s > 0 {
			timeout = time.Duration(s) * time.Second
		}
		longest, h.until = max(longest, timeout), now.Add(timeout)
		m.health[deviceKey{driver, d.GetDevice().GetPoolName(), d.GetDevice().GetDeviceName()}] = h
	}
	same := maps.EqualFunc(before, m.health, func(a, b health) bool { return a.status == b.status && a.message == b.message })
	m.mu.Unlock()
	if !same {
		m.tellUsers(driver)
	}
	if longest > 0 {
		m.cfg.Clock.AfterFunc(longest, func() { go m.expire(driver) }) // a fake clock calls under its lock
	}
}

// expire tells the pods of a driver if something that it reported does not count any more.
func (m *Manager) expire(driver string) {
	now, expired := m.cfg.Clock.Now(), false
	m.mu.Lock()
	for key, h := range m.health {
		expired = expired || key.driver == driver && !now.Before(h.until)
	}
	m.mu.Unlock()
	if expired {
		m.tellUsers(driver)
	}
}

// tellUsers tells the pods that have devices of a driver to look at their health.
func (m *Manager) tellUsers(driver string) {
	users := map[types.UID]bool{}
	m.mu.Lock()
	for _, c := range m.claims {
		if _, ok := c.Drivers[driver]; ok {
			for _, pod := range c.Pods {
				users[pod] = true
			}
		}
	}
	m.mu.Unlock()
	for pod := range users {
		if m.cfg.Changed != nil {
			m.cfg.Changed(pod)
		}
	}
}

// Health is how the devices are that a container has by its claims.
func (m *Manager) Health(pod *corev1.Pod, c *corev1.Container) (out []corev1.ResourceStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, wanted := range c.Resources.Claims {
		name := corev1.ResourceName("claim:" + wanted.Name)
		if wanted.Request != "" {
			name += corev1.ResourceName("/" + wanted.Request)
		}
		at := slices.IndexFunc(pod.Spec.ResourceClaims, func(r corev1.PodResourceClaim) bool { return r.Name == wanted.Name })
		if at < 0 {
			continue
		}
		of, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[at])
		if err != nil || of == nil {
			continue
		}
		if known := m.find(pod.Namespace, *of, pod.UID); known != nil {
			if list := m.healthOf(known, wanted.Request); len(list) > 0 {
				out = append(out, corev1.ResourceStatus{Name: name, Resources: list})
			}
		}
	}
	slices.SortFunc(out, func(a, b corev1.ResourceStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// healthOf needs the lock.
func (m *Manager) healthOf(c *claim, request string) (out []corev1.ResourceHealth) {
	for _, driver := range slices.Sorted(maps.Keys(c.Drivers)) {
		for _, d := range c.Drivers[driver] {
			id := corev1.ResourceID(driver + "/" + d.Pool + "/" + d.Name)
			if len(d.CDI) > 0 {
				id = corev1.ResourceID(d.CDI[0])
			}
			if !d.answers(request) || slices.ContainsFunc(out, func(h corev1.ResourceHealth) bool { return h.ResourceID == id }) {
				continue
			}
			entry := corev1.ResourceHealth{ResourceID: id, Health: corev1.ResourceHealthStatusUnknown}
			if h, ok := m.health[deviceKey{driver, d.Pool, d.Name}]; ok && m.cfg.Clock.Now().Before(h.until) {
				entry.Health = h.status
				if h.message != "" && features.Enabled("ResourceHealthStatusMessage") {
					entry.Message = &h.message
				}
			}
			out = append(out, entry)
		}
	}
	return out
}

// Resources are the devices that a container has by its claims, as the pod-resources API tells of them.
func (m *Manager) Resources(pod *corev1.Pod, c *corev1.Container) (out []*podresourcesapi.DynamicResource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	for _, use := range uses(pod, c) {
		known := m.find(pod.Namespace, use.claim, pod.UID)
		if known == nil || seen[use.claim] {
			continue
		}
		seen[use.claim] = true
		resource := &podresourcesapi.DynamicResource{ClaimName: known.Name, ClaimNamespace: known.Namespace}
		for _, driver := range slices.Sorted(maps.Keys(known.Drivers)) {
			for _, d := range known.Drivers[driver] {
				one := &podresourcesapi.ClaimResource{DriverName: driver, PoolName: d.Pool, DeviceName: d.Name, ShareId: d.Share}
				for _, name := range d.CDI {
					one.CdiDevices = append(one.CdiDevices, &podresourcesapi.CDIDevice{Name: name})
				}
				resource.ClaimResources = append(resource.ClaimResources, one)
			}
		}
		out = append(out, resource)
	}
	return out
}
