package shutdown

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/podplan"
)

func pod(name string, priority int32, grace int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{Priority: &priority, TerminationGracePeriodSeconds: &grace},
	}
}

func TestPeriods(t *testing.T) {
	seconds := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
	cases := map[string]struct {
		all, critical metav1.Duration
		byPriority    []Period
		want          []Period
	}{
		"none":             {},
		"all and critical": {all: seconds(30), critical: seconds(10), want: []Period{{Priority: 0, ShutdownGracePeriodSeconds: 20}, {Priority: 2_000_000_000, ShutdownGracePeriodSeconds: 10}}},
		"impossible":       {all: seconds(10), critical: seconds(30)},
		"by priority": {
			all: seconds(30), byPriority: []Period{{Priority: 100, ShutdownGracePeriodSeconds: 5}, {Priority: 0, ShutdownGracePeriodSeconds: 7}},
			want: []Period{{Priority: 0, ShutdownGracePeriodSeconds: 7}, {Priority: 100, ShutdownGracePeriodSeconds: 5}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := Periods(&kubeletconfig.KubeletConfiguration{ShutdownGracePeriod: c.all, ShutdownGracePeriodCriticalPods: c.critical, ShutdownGracePeriodByPodPriority: c.byPriority})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGroups(t *testing.T) {
	periods := []Period{{Priority: 10, ShutdownGracePeriodSeconds: 1}, {Priority: 100, ShutdownGracePeriodSeconds: 2}, {Priority: 1000, ShutdownGracePeriodSeconds: 3}}
	var got [][]string
	for _, g := range groups(periods, []*corev1.Pod{pod("below", 5, 0), pod("at", 10, 0), pod("between", 999, 0), pod("unset", 0, 0), pod("at-100", 100, 0)}) {
		var names []string
		for _, p := range g.pods {
			names = append(names, p.Name)
		}
		got = append(got, names)
	}
	if diff := cmp.Diff([][]string{{"below", "at", "unset"}, {"between", "at-100"}}, got); diff != "" {
		t.Error(diff)
	}
}

// Groups end one after the other, each when its pods are gone or its time is over; nothing is admitted any more.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := []*corev1.Pod{pod("quick", 0, 30), pod("stuck", 100, 1), pod("critical", 2_000_000_000, 60)}
		active := []types.UID{"quick", "stuck", "critical"}
		began := time.Now()
		type stopped struct {
			UID   types.UID
			Grace int64
			At    time.Duration
		}
		var got []stopped
		var m *Manager
		m = New(Config{
			Periods: []Period{{Priority: 0, ShutdownGracePeriodSeconds: 20}, {Priority: 100, ShutdownGracePeriodSeconds: 5}, {Priority: 2_000_000_000, ShutdownGracePeriodSeconds: 10}},
			Pods:    func() []*corev1.Pod { return pods },
			Active:  func(uid types.UID) bool { return slices.Contains(active, uid) },
			Stop: func(uid types.UID, s podplan.Stop) {
				got = append(got, stopped{uid, *s.Grace, time.Since(began)})
				if s.Reason != "Terminated" || s.Condition == nil {
					t.Errorf("%s is ended with %+v", uid, s)
				}
				if uid != "stuck" {
					time.AfterFunc(2*time.Second, func() {
						active = slices.DeleteFunc(active, func(other types.UID) bool { return other == uid })
						m.Wake()
					})
				}
			},
			Changed: func() {}, Clock: clock.RealClock{},
		})
		if m.Admit() != nil || m.Terminated() {
			t.Error("down before it was told")
		}
		began = time.Now()
		m.End(t.Context())
		want := []stopped{{"quick", 20, 0}, {"stuck", 1, 2 * time.Second}, {"critical", 10, 7 * time.Second}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(began); took != 9*time.Second {
			t.Errorf("took %s", took)
		}
		if r := m.Admit(); r == nil || r.Reason != "NodeShutdown" {
			t.Errorf("admits: %v", r)
		}
	})
}

// TestLogind follows the shutdown of a machine with systemd, which somebody else asks for: the file that $SHUTDOWN_TEST names tells how far
// the pods got before systemd ended this process.
func TestLogind(t *testing.T) {
	path := os.Getenv("SHUTDOWN_TEST")
	if path == "" {
		t.Skip("it ends with the machine: make test-vm runs it")
	}
	note := func(text string) {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|os.O_SYNC, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		_, _ = file.WriteString(text + "\n") // what is missing will be missed
	}
	var active atomic.Bool
	active.Store(true)
	var m *Manager
	m = New(Config{
		Periods: []Period{{Priority: 0, ShutdownGracePeriodSeconds: 60}},
		Pods:    func() []*corev1.Pod { return []*corev1.Pod{pod("one", 0, 30)} },
		Active:  func(types.UID) bool { return active.Load() },
		Stop: func(uid types.UID, _ podplan.Stop) {
			note(string(uid) + " is told to end")
			time.AfterFunc(8*time.Second, func() { // longer than logind waits if nobody asks for more
				note(string(uid) + " has ended")
				active.Store(false)
				m.Wake()
			})
		},
		Changed: func() {}, Clock: clock.RealClock{},
	})
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
