package pretend

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/cri/contract"
)

func someRange() (netip.Prefix, bool) { return netip.MustParsePrefix("100.64.1.0/29"), true }

func TestContract(t *testing.T) {
	contract.Test(t, contract.Subject{
		Client: &cri.Client{Runtime: New(Config{Range: someRange, Clock: clock.RealClock{}}), Images: NewImages()},
		Image:  "example.com/pause:1", LogDir: t.TempDir(),
	})
}

func TestAddressesAreUniqueAndReturned(t *testing.T) {
	r := New(Config{Range: someRange, Clock: clock.RealClock{}})
	seen, ids := map[string]bool{}, []string{}
	run := func() (string, error) {
		id, err := r.RunPodSandbox(t.Context(), &runtimeapi.PodSandboxConfig{}, "")
		if err == nil {
			ids = append(ids, id)
			seen[r.sandboxes[id].status.Network.Ip] = true
		}
		return id, err
	}
	for range 5 { // .2 to .6 of a /29
		if _, err := run(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := run(); status.Code(err) != codes.ResourceExhausted || len(seen) != 5 {
		t.Fatalf("after 5 pods with %d addresses: %v", len(seen), err)
	}
	if err := r.StopPodSandbox(t.Context(), ids[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := run(); err != nil || len(seen) != 5 {
		t.Errorf("a freed address was not given again: %v, %v", err, seen)
	}
}

func TestContainersEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, ctx := New(Config{Range: someRange, Clock: clock.RealClock{}}), t.Context()
		sandbox, err := r.RunPodSandbox(ctx, &runtimeapi.PodSandboxConfig{Annotations: map[string]string{RunForAnnotation: "30s", ExitCodeAnnotation: "3"}}, "")
		if err != nil {
			t.Fatal(err)
		}
		id, err := r.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{Image: &runtimeapi.ImageSpec{Image: "x"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			after time.Duration
			state runtimeapi.ContainerState
			code  int32
		}{{29 * time.Second, runtimeapi.ContainerState_CONTAINER_RUNNING, 0}, {2 * time.Second, runtimeapi.ContainerState_CONTAINER_EXITED, 3}} {
			time.Sleep(step.after) //nolint:forbidigo // the bubble's time, not the wall's
			synctest.Wait()
			got, err := r.ContainerStatus(ctx, id, false)
			if err != nil || got.Status.State != step.state || got.Status.ExitCode != step.code {
				t.Errorf("%v, %v; want %v", got, err, step)
			}
		}
	})
}
