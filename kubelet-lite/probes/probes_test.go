package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	utilexec "k8s.io/utils/exec"

	"keelson.dev/kubelet-lite/podplan"
)

// script answers exec probes: the n-th attempt of a command gets the n-th letter, + or -; the last one repeats.
type script struct {
	mu      sync.Mutex
	answers map[string]string
	times   map[string][]time.Duration
	start   time.Time
}

func (s *script) ExecSync(_ context.Context, _ string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.times[cmd[0]])
	s.times[cmd[0]] = append(s.times[cmd[0]], time.Since(s.start))
	answers := s.answers[cmd[0]]
	if answers[min(n, len(answers)-1)] == '-' {
		return []byte("no"), nil, utilexec.CodeExitError{Err: errors.New("exit"), Code: 1}
	}
	return nil, nil, nil
}

func exec(name string, p corev1.Probe) *corev1.Probe {
	p.Exec = &corev1.ExecAction{Command: []string{name}}
	return &p
}

// play runs probes for a while in a bubble of time, and returns their schedule and their results.
func play(t *testing.T, c corev1.Container, answers map[string]string, howLong time.Duration, terminating bool) (map[string][]time.Duration, podplan.Probes) {
	t.Helper()
	var times map[string][]time.Duration
	var results podplan.Probes
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: answers, times: map[string][]time.Duration{}, start: time.Now()}
		m := New(Config{Exec: s, Recorder: record.NewFakeRecorder(1000), Clock: clock.RealClock{}, Changed: func(types.UID) {}})
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
		ctx, cancel := context.WithCancel(t.Context())
		m.Sync(ctx, pod, "10.0.0.1", map[string]Target{"c": {ID: "id", StartedAt: time.Now()}}, terminating)
		time.Sleep(howLong) //nolint:forbidigo // the bubble's time, not the wall's
		synctest.Wait()
		results = m.Results("u", "id")
		times = s.times
		cancel()
		synctest.Wait()
	})
	return times, results
}

func TestSchedule(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		container   corev1.Container
		answers     map[string]string
		howLong     time.Duration
		terminating bool
		times       string
		want        podplan.Probes
	}{
		"at once, then each period": {
			corev1.Container{Name: "c", ReadinessProbe: exec("r", corev1.Probe{PeriodSeconds: 3})},
			map[string]string{"r": "+"},
			7 * s, false,
			"r:[0s 3s 6s]",
			podplan.Probes{Readiness: podplan.Success},
		},
		"initial delay": {
			corev1.Container{Name: "c", ReadinessProbe: exec("r", corev1.Probe{PeriodSeconds: 3, InitialDelaySeconds: 5})},
			map[string]string{"r": "+"},
			9 * s, false,
			"r:[5s 8s]",
			podplan.Probes{Readiness: podplan.Success},
		},
		"one failure is not enough": {
			corev1.Container{Name: "c", LivenessProbe: exec("l", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3})},
			map[string]string{"l": "+--+"},
			4 * s, false,
			"l:[0s 1s 2s 3s 4s]",
			podplan.Probes{Liveness: podplan.Success},
		},
		"enough failures, and no more probes": {
			corev1.Container{Name: "c", LivenessProbe: exec("l", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3})},
			map[string]string{"l": "+-"},
			9 * s, false,
			"l:[0s 1s 2s 3s]",
			podplan.Probes{Liveness: podplan.Failure},
		},
		"readiness comes back": {
			corev1.Container{Name: "c", ReadinessProbe: exec("r", corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 2})},
			map[string]string{"r": "-++"},
			2 * s, false,
			"r:[0s 1s 2s]",
			podplan.Probes{Readiness: podplan.Success},
		},
		"the others wait for startup": {
			corev1.Container{Name: "c", StartupProbe: exec("s", corev1.Probe{PeriodSeconds: 2, FailureThreshold: 9}), ReadinessProbe: exec("r", corev1.Probe{PeriodSeconds: 5})},
			map[string]string{"s": "--+", "r": "+"},
			5 * s, false,
			"r:[4s] s:[0s 2s 4s]",
			podplan.Probes{Startup: podplan.Success, Readiness: podplan.Success},
		},
		"startup fails for good": {
			corev1.Container{Name: "c", StartupProbe: exec("s", corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2}), LivenessProbe: exec("l", corev1.Probe{PeriodSeconds: 1})},
			map[string]string{"s": "-", "l": "-"},
			9 * s, false,
			"s:[0s 1s]",
			podplan.Probes{Startup: podplan.Failure},
		},
		"a terminating pod keeps its readiness probe": {
			corev1.Container{Name: "c", LivenessProbe: exec("l", corev1.Probe{PeriodSeconds: 1}), ReadinessProbe: exec("r", corev1.Probe{PeriodSeconds: 4})},
			map[string]string{"l": "-", "r": "-"},
			5 * s, true,
			"r:[0s 4s]",
			podplan.Probes{Readiness: podplan.Failure},
		},
	} {
		t.Run(name, func(t *testing.T) {
			times, got := play(t, c.container, c.answers, c.howLong, c.terminating)
			if text := strings.TrimPrefix(strings.TrimSuffix(fmt.Sprint(times), "]"), "map["); text != c.times {
				t.Errorf("attempts %s, want %s", text, c.times)
			}
			if got != c.want {
				t.Errorf("results %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestHTTP(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/headers":
			if r.Header.Get("X-A") != "1" || r.Host != "named.example" || r.UserAgent() != userAgent {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/ok":
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	host, portText, err := net.SplitHostPort(strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for path, want := range map[string]bool{"/ok": true, "/bad": false, "/here": true, "/away": true, "/headers": true, "/ok?q=1": true} {
		action := &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "1"}, {Name: "Host", Value: "named.example"}}}
		if ok, output := probeHTTP(t.Context(), action, c, host); ok != want {
			t.Errorf("%s: %v, %s", path, ok, output)
		}
	}
	if ok, _ := probeHTTP(t.Context(), &corev1.HTTPGetAction{Port: intstr.FromString("nope")}, c, host); ok {
		t.Error("a port that nobody named answers")
	}
}

// What is counted of a pod's probes is served until the pod is gone.
func TestMetrics(t *testing.T) {
	m := New(Config{})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Namespace: "ns", Name: "p"}}
	m.Sync(t.Context(), pod, "10.0.0.1", nil, false)
	w := &worker{m: m, key: key{"u", "id", liveness}, pod: pod, container: &corev1.Container{Name: "c"}}
	w.count(verdict{ok: true}, time.Second)
	w.count(verdict{output: "no"}, time.Second)
	w.count(verdict{broken: errors.New("no answer")}, time.Second)
	served := func() string {
		answer := httptest.NewRecorder()
		m.Metrics().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics/probes", nil))
		return answer.Body.String()
	}
	text := served()
	for _, result := range []string{"successful", "failed", "unknown"} {
		if want := fmt.Sprintf(`prober_probe_total{container="c",namespace="ns",pod="p",pod_uid="u",probe_type="Liveness",result="%s"} 1`, result); !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if !strings.Contains(text, `prober_probe_duration_seconds_count{container="c",namespace="ns",pod="p",probe_type="Liveness"} 2`) {
		t.Errorf("durations:\n%s", text)
	}
	if m.Remove("u"); strings.Contains(served(), "prober") {
		t.Errorf("of a pod that is gone:\n%s", served())
	}
}
