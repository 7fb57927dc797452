package images

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	testclock "k8s.io/utils/clock/testing"
)

// store is an image service with some images and a registry that may fail.
type store struct {
	criapi.ImageManagerService
	present  map[string]bool
	broken   error
	pulls    int
	lastAuth *runtimeapi.AuthConfig
}

func (s *store) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	if !s.present[spec.Image] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "sha:" + spec.Image}}, nil
}

func (s *store) PullImage(_ context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	s.pulls++
	s.lastAuth = auth
	if s.broken != nil {
		return "", s.broken
	}
	s.present[spec.Image] = true
	return spec.Image, nil
}

type secrets map[string]*corev1.Secret

func (s secrets) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if secret := s[name]; secret != nil {
		return secret, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func TestEnsure(t *testing.T) {
	for name, c := range map[string]struct {
		image, policy string
		present       bool
		broken        error
		reason        string
		pulls         int
	}{
		"present":                  {"a:1", "IfNotPresent", true, nil, "", 0},
		"absent":                   {"a:1", "IfNotPresent", false, nil, "", 1},
		"always":                   {"a:1", "Always", true, nil, "", 1},
		"never, present":           {"a:1", "Never", true, nil, "", 0},
		"never, absent":            {"a:1", "Never", false, nil, ReasonErrNeverPull, 0},
		"no policy, a tag":         {"a:1", "", true, nil, "", 0},
		"no policy, no tag":        {"a", "", true, nil, "", 1},
		"broken":                   {"a:1", "IfNotPresent", false, errors.New("no route"), ReasonErrImagePull, 1},
		"registry away":            {"a:1", "IfNotPresent", false, errors.New("RegistryUnavailable: x"), ReasonRegistryDown, 1},
		"bad name":                 {"A:1:2", "Always", false, nil, ReasonInvalidName, 0},
		"name is not a repository": {"x/UPPER", "Always", false, nil, ReasonInvalidName, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &store{present: map[string]bool{}, broken: c.broken}
			if c.present {
				s.present["a:1"], s.present["a:latest"] = true, true
			}
			m := New(Config{Images: s, Secrets: secrets{}, Recorder: record.NewFakeRecorder(20), Clock: testclock.NewFakeClock(time.Now()), Parallel: 1})
			_, err := m.Ensure(t.Context(), &corev1.Pod{}, &corev1.Container{Name: "c", Image: c.image, ImagePullPolicy: corev1.PullPolicy(c.policy)}, "")
			reason := ""
			if why, ok := errors.AsType[*Error](err); ok {
				reason = why.Reason
			}
			if reason != c.reason || s.pulls != c.pulls {
				t.Errorf("reason %q after %d pulls, want %q after %d", reason, s.pulls, c.reason, c.pulls)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	clk := testclock.NewFakeClock(time.Now())
	s := &store{present: map[string]bool{}, broken: errors.New("no route")}
	m := New(Config{Images: s, Secrets: secrets{}, Recorder: record.NewFakeRecorder(100), Clock: clk, Parallel: 1})
	try := func() *Error {
		_, err := m.Ensure(t.Context(), &corev1.Pod{}, &corev1.Container{Name: "c", Image: "a:1"}, "")
		var why *Error
		errors.As(err, &why)
		return why
	}
	for _, delay := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		if why := try(); why.Reason != ReasonErrImagePull {
			t.Fatalf("after a failed pull: %v", why)
		}
		why := try()
		if why.Reason != ReasonImagePullBackOff || !strings.Contains(why.Message, `Back-off pulling image "a:1": ErrImagePull: no route`) {
			t.Fatalf("in back-off: %v", why)
		}
		if got := why.RetryAt.Sub(clk.Now()); got != delay {
			t.Errorf("back-off %v, want %v", got, delay)
		}
		clk.Step(delay)
	}
	s.broken = nil
	if why := try(); why != nil {
		t.Errorf("registry is back: %v", why)
	}
}

func TestCredentials(t *testing.T) {
	secret := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(
		`{"auths":{"https://r.example/team":{"auth":"dTpw"},"other.example":{"username":"x","password":"y"}}}`)}}
	s := &store{present: map[string]bool{}}
	m := New(Config{Images: s, Secrets: secrets{"s": secret}, Recorder: record.NewFakeRecorder(100), Clock: testclock.NewFakeClock(time.Now()), Parallel: 1})
	pod := &corev1.Pod{Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "missing"}, {Name: "s"}}}}
	for image, want := range map[string]string{"r.example/team/app:1": "u/p", "r.example/teams/app:1": "", "other.example/app:1": "x/y", "app:1": ""} {
		s.lastAuth = nil
		if _, err := m.Ensure(t.Context(), pod, &corev1.Container{Name: "c", Image: image, ImagePullPolicy: corev1.PullAlways}, ""); err != nil {
			t.Fatal(err)
		}
		got := ""
		if s.lastAuth != nil {
			got = s.lastAuth.Username + "/" + s.lastAuth.Password
		}
		if got != want {
			t.Errorf("%s: pulled as %q, want %q", image, got, want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		key, image string
		want       bool
	}{
		{"https://index.docker.io/v1/", "busybox", true},
		{"docker.io/library", "busybox:1", true},
		{"*.example.com", "a.example.com/x", true},
		{"*.example.com", "a.b.example.com/x", false},
		{"example.com", "example.com:5000/x", false},
		{"example.com:5000", "example.com:5000/x", true},
		{"example.com/a", "example.com/ab", false},
	} {
		if got := matches(c.key, c.image); got != c.want {
			t.Errorf("%s covers %s: %v", c.key, c.image, got)
		}
	}
}

// inventory is a node with images, of which some are in use.
type inventory struct {
	criapi.ImageManagerService
	criapi.RuntimeService
	images  []*runtimeapi.Image
	used    []string
	removed []string
}

func (i *inventory) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return i.images, nil
}

func (i *inventory) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	var out []*runtimeapi.Container
	for _, id := range i.used {
		out = append(out, &runtimeapi.Container{ImageId: id})
	}
	return out, nil
}

func (i *inventory) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	i.removed = append(i.removed, spec.Image)
	return nil
}

func (i *inventory) Close(context.Context) error { return nil }

func TestCollect(t *testing.T) {
	clk := testclock.NewFakeClock(time.Now())
	node := &inventory{used: []string{"old", "new"}, images: []*runtimeapi.Image{{Id: "new", Size: 30}, {Id: "old", Size: 30}, {Id: "used", Size: 30}, {Id: "pinned", Size: 30, Pinned: true}}}
	available := uint64(50)
	c := NewCollector(CollectorConfig{
		Images: node, Runtime: node, High: 85, Low: 80, MinAge: time.Minute, Clock: clk,
		Disk: func(context.Context) (uint64, uint64, error) { return 100, available, nil },
	})
	round := func(want ...string) {
		t.Helper()
		node.removed = nil
		if err := c.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, node.removed); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
	}
	round() // enough space
	clk.Step(time.Hour)
	node.used = []string{"new", "used"}
	round()
	clk.Step(time.Hour)
	node.used = []string{"used"}
	available = 10
	round("old") // unused for longest, and enough to get to 80 %
	node.removed = nil
	if err := c.Free(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"old", "new"}, node.removed); diff != "" {
		t.Errorf("freed (-want +got):\n%s", diff)
	}
}
