package podgc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"keelson.dev/internal/lister"
)

var now = time.Unix(1_000_000, 0)

func store(t *testing.T, objs ...client.Object) toolscache.Indexer {
	t.Helper()
	indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc})
	for _, obj := range objs {
		if err := indexer.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	return indexer
}

func pod(name, node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
}

func deleting(p *corev1.Pod) *corev1.Pod {
	p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: now}, []string{"test/held"} // the fake server takes no other deleted object
	return p
}

// TestReconcile runs the controller twice, the second time after the quarantine.
func TestReconcile(t *testing.T) {
	node := func(ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{Taints: taints},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
		}
	}
	out := corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}
	cases := map[string]struct {
		pod   *corev1.Pod
		node  *corev1.Node
		first corev1.PodPhase
		later corev1.PodPhase // "": gone
	}{
		"on its node":                        {pod("p", "n", "Running"), node("True"), "Running", "Running"},
		"waiting for a node":                 {pod("p", "", "Pending"), nil, "Pending", "Pending"},
		"deleted before it had a node":       {deleting(pod("p", "", "Pending")), nil, "Failed", "Failed"},
		"node is gone":                       {pod("p", "n", "Running"), nil, "Running", ""},
		"finished, node is gone":             {pod("p", "n", "Succeeded"), nil, "Succeeded", ""},
		"out of service, deleted":            {deleting(pod("p", "n", "Running")), node("Unknown", out), "Failed", "Failed"},
		"out of service, wanted":             {pod("p", "n", "Running"), node("Unknown", out), "Running", "Running"},
		"out of service, but ready, deleted": {deleting(pod("p", "n", "Running")), node("True", out), "Running", "Running"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithStatusSubresource(&corev1.Pod{}).WithObjects(tc.pod).Build()
			clock := clocktesting.NewFakePassiveClock(now)
			nodes := store(t)
			if tc.node != nil {
				nodes = store(t, tc.node)
			}
			r := &reconciler{client: c, pods: lister.Of[*corev1.Pod]{Indexer: store(t, tc.pod)}, nodes: lister.Of[*corev1.Node]{Indexer: nodes}, clock: clock, missing: map[string]time.Time{}}
			for i, want := range []corev1.PodPhase{tc.first, tc.later} {
				if _, err := r.reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.pod)}); err != nil {
					t.Fatal(err)
				}
				got := &corev1.Pod{}
				if err := client.IgnoreNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(tc.pod), got)); err != nil {
					t.Fatal(err)
				}
				if i == 0 && len(got.Status.Conditions) != 0 {
					t.Errorf("conditions %v", got.Status.Conditions) // only a pod that is looked at after its node's end is a disrupted one
				}
				if got.Status.Phase != want {
					t.Errorf("look %d: phase %q, want %q", i+1, got.Status.Phase, want)
				}
				clock.SetTime(now.Add(quarantine))
			}
		})
	}
}

func TestSweepRemovesEvictedAndOldest(t *testing.T) {
	var objs []client.Object
	for i := range 5 {
		p := pod(fmt.Sprint("p", i), "n", corev1.PodSucceeded)
		p.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(i) * time.Second))
		objs = append(objs, p)
	}
	objs[3].(*corev1.Pod).Status.Reason = "Evicted"
	objs = append(objs, pod("running", "n", corev1.PodRunning))
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objs...).Build()
	r := &reconciler{client: c, pods: lister.Of[*corev1.Pod]{Indexer: store(t, objs...)}, clock: clocktesting.NewFakePassiveClock(now), threshold: 3}
	if err := r.sweepFinished(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left corev1.PodList
	if err := c.List(t.Context(), &left); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range left.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"p1", "p2", "p4", "running"}, names); diff != "" {
		t.Error(diff)
	}
}
