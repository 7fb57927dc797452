package eviction

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	testclock "k8s.io/utils/clock/testing"
)

func pod(name string, priority int32, request string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{Name: "c"}}}}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
	}
	return p
}

func using(name string, memory uint64) statsapi.PodStats {
	m := &statsapi.MemoryStats{WorkingSetBytes: &memory}
	return statsapi.PodStats{PodRef: statsapi.PodReference{UID: name}, Memory: m, Containers: []statsapi.ContainerStats{{Name: "c", Memory: m}}}
}

func node(available uint64, pods ...statsapi.PodStats) *statsapi.Summary {
	working := 1000<<20 - available
	return &statsapi.Summary{Node: statsapi.NodeStats{Memory: &statsapi.MemoryStats{AvailableBytes: &available, WorkingSetBytes: &working}}, Pods: pods}
}

func TestRank(t *testing.T) {
	pods := []*corev1.Pod{pod("within", -5, "500Mi"), pod("over", 0, "100Mi"), pod("more over", 0, "100Mi"), pod("over, dear", 10, ""), pod("no stats", -9, "")}
	summary := node(0, using("within", 400<<20), using("over", 150<<20), using("more over", 200<<20), using("over, dear", 900<<20))
	Rank(MemoryAvailable, pods, usageByUID(summary))
	var got []string
	for _, p := range pods {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"more over", "over", "over, dear", "no stats", "within"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParse(t *testing.T) {
	got, err := Parse(map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "pid.available": "0"},
		map[string]string{"memory.available": "200Mi"}, map[string]string{"memory.available": "1m"}, map[string]string{"nodefs.available": "5%"})
	want := []Threshold{
		{Signal: MemoryAvailable, Least: Amount{Quantity: resource.MustParse("100Mi")}},
		{Signal: NodeFsAvailable, Least: Amount{Percentage: 0.1}, Reclaim: Amount{Percentage: 0.05}},
		{Signal: MemoryAvailable, Least: Amount{Quantity: resource.MustParse("200Mi")}, Grace: time.Minute},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []map[string]string{{"x": "1"}, {"memory.available": "-1"}, {"memory.available": "101%"}, {"memory.available": "much"}} {
		if _, err := Parse(bad, nil, nil, nil); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if _, err := Parse(nil, map[string]string{"memory.available": "1"}, nil, nil); err == nil {
		t.Error("a soft threshold without grace was accepted")
	}
}

// TestPressureComesAndGoes walks a node through soft and hard shortage and back.
func TestPressureComesAndGoes(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	thresholds, err := Parse(map[string]string{"memory.available": "100Mi"}, map[string]string{"memory.available": "200Mi"},
		map[string]string{"memory.available": "1m"}, map[string]string{"memory.available": "50Mi"})
	if err != nil {
		t.Fatal(err)
	}
	type eviction struct {
		Pod, Message string
		Grace        int64
	}
	var available uint64
	var evicted []eviction
	static := pod("static", 0, "")
	static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	m := New(Config{
		Thresholds: thresholds, MaxPodGrace: 7, Clock: clock,
		Summary: func(context.Context) (*statsapi.Summary, error) {
			return node(available, using("a", 300<<20), using("static", 400<<20)), nil
		},
		Node: func(context.Context) (*statsapi.NodeStats, error) { return &node(available).Node, nil },
		Pods: func() []*corev1.Pod { return []*corev1.Pod{static, pod("a", 0, "100Mi")} },
		Evict: func(_ context.Context, p *corev1.Pod, message string, grace *int64) error {
			e := eviction{p.Name, message, -1}
			if grace != nil {
				e.Grace = *grace
			}
			evicted = append(evicted, e)
			return nil
		},
	})
	for _, step := range []struct {
		wait      time.Duration
		available uint64
		pressure  bool
		evicted   []eviction
	}{
		{0, 500 << 20, false, nil},
		{time.Second, 150 << 20, true, nil}, // soft, within its grace
		{time.Minute, 150 << 20, true, []eviction{{"a", "The node was low on resource: memory. Threshold quantity: 200Mi, available: 150Mi. Container c was using 300Mi, request is 100Mi, has larger consumption of memory. ", 7}}},
		{time.Second, 90 << 20, true, []eviction{{"a", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container c was using 300Mi, request is 100Mi, has larger consumption of memory. ", -1}}},
		{time.Second, 260 << 20, true, nil},      // over, but the condition stays
		{5 * time.Minute, 260 << 20, false, nil}, // until the transition period is over
	} {
		clock.Step(step.wait)
		available, evicted = step.available, nil
		if err := m.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(evicted) > 1 {
			evicted = evicted[:1]
		}
		if diff := cmp.Diff(step.evicted, evicted); diff != "" || m.Pressure(corev1.NodeMemoryPressure) != step.pressure {
			t.Errorf("at %d MiB: pressure %v, want %v; %s", step.available>>20, !step.pressure, step.pressure, diff)
		}
	}
}

func TestOverLimit(t *testing.T) {
	limit, used := resource.MustParse("1Mi"), uint64(2<<20)
	fs := statsapi.FsStats{UsedBytes: &used}
	p := pod("p", 0, "")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	if got, want := OverLimit(p, &statsapi.PodStats{VolumeStats: []statsapi.VolumeStats{{Name: "v", FsStats: fs}}}), `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `; got != want {
		t.Errorf("got %q", got)
	}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
	if got, want := OverLimit(p, &statsapi.PodStats{Containers: []statsapi.ContainerStats{{Name: "c", Rootfs: &fs}}}), `Container c exceeded its local ephemeral storage limit "1Mi". `; got != want {
		t.Errorf("got %q", got)
	}
	if got := OverLimit(p, &statsapi.PodStats{}); got != "" {
		t.Errorf("got %q", got)
	}
}
