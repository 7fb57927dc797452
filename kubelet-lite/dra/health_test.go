package dra

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drahealthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drapbv1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"keelson.dev/kubelet-lite/plugins"
)

// sickbay reports what it is told to.
type sickbay struct {
	drahealth.UnimplementedDRAResourceHealthServer

	reports chan *drahealth.NodeWatchResourcesResponse
}

func (s *sickbay) NodeWatchResources(_ *drahealth.NodeWatchResourcesRequest, stream drahealth.DRAResourceHealth_NodeWatchResourcesServer) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case report := <-s.reports:
			if err := stream.Send(report); err != nil {
				return err
			}
		}
	}
}

// A driver of the older versions of both services prepares claims, and its devices' health reaches the pods.
func TestOlderDriverAndHealth(t *testing.T) {
	ctx, driver, bay := t.Context(), &fakeDriver{prepared: map[string]bool{}}, &sickbay{reports: make(chan *drahealth.NodeWatchResourcesResponse)}
	socket := filepath.Join(t.TempDir(), "d.sock")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	must(t, err)
	server := grpc.NewServer()
	drapbv1beta1.RegisterDRAPluginServer(server, drapbv1beta1.V1ServerWrapper{DRAPluginServer: driver})
	drahealthv1alpha1.RegisterDRAResourceHealthServer(server, drahealth.V1ServerWrapper{Server: bay})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	pod := podWith("p", "c", "gpu")
	m := newBench(t, t.TempDir(), fake.NewClientset(resourceClaim("c", "1", pod)))
	changed := make(chan types.UID, 10)
	m.cfg.Changed = func(uid types.UID) { changed <- uid }
	must(t, m.Register(ctx, plugins.Plugin{Name: "test", Endpoint: socket, Versions: []string{drapbv1beta1.DRAPluginService, drahealthv1alpha1.DRAResourceHealthService}}))
	must(t, m.Prepare(ctx, pod))
	shows := func(health corev1.ResourceHealthStatus, message *string) {
		t.Helper()
		want := []corev1.ResourceStatus{{Name: "claim:c/gpu", Resources: []corev1.ResourceHealth{{ResourceID: "test/c=gpu", Health: health, Message: message}}}}
		if diff := cmp.Diff(want, m.Health(pod, &pod.Spec.Containers[0])); diff != "" {
			t.Error(diff)
		}
	}
	shows(corev1.ResourceHealthStatusUnknown, nil)
	report := func(health drahealth.HealthStatus, message string) {
		bay.reports <- &drahealth.NodeWatchResourcesResponse{Devices: []*drahealth.DeviceHealth{{
			Device: &drahealth.DeviceIdentifier{PoolName: "pool", DeviceName: "gpu-0"}, Health: health, Message: message, HealthCheckTimeoutSeconds: 10,
		}}}
		if uid := <-changed; uid != pod.UID {
			t.Errorf("told of %s", uid)
		}
	}
	report(drahealth.HealthStatus_HEALTHY, "")
	shows(corev1.ResourceHealthStatusHealthy, nil)
	report(drahealth.HealthStatus_UNHEALTHY, "too hot")
	shows(corev1.ResourceHealthStatusUnhealthy, new("too hot"))
	m.clock.Step(10 * time.Second)
	<-changed
	shows(corev1.ResourceHealthStatusUnknown, nil)
	resources := m.Resources(pod, &pod.Spec.Containers[0])
	if len(resources) != 1 || resources[0].ClaimName != "c" || len(resources[0].ClaimResources) != 2 || resources[0].ClaimResources[0].DeviceName != "gpu-0" {
		t.Errorf("resources: %v", resources)
	}
}
