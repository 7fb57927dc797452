package resourcequota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

func listerOf[T client.Object](t *testing.T, objs ...T) lister.Of[T] {
	t.Helper()
	indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc})
	for _, obj := range objs {
		if err := indexer.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	return lister.Of[T]{Indexer: indexer}
}

func quantities(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func TestReconcile(t *testing.T) {
	pod := func(namespace, name, cpu string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Status: corev1.PodStatus{Phase: phase}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: quantities("cpu", cpu)}}},
		}}
	}
	pods := listerOf(t, pod("ns", "a", "1", corev1.PodRunning), pod("ns", "b", "500m", corev1.PodPending), pod("ns", "done", "4", corev1.PodSucceeded), pod("other", "c", "8", corev1.PodRunning))
	services := listerOf(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}})
	cases := map[string]struct {
		hard, stale, want corev1.ResourceList
		scopes            []corev1.ResourceQuotaScope
	}{
		"pods of the namespace":    {hard: quantities("pods", "5", "requests.cpu", "3"), want: quantities("pods", "2", "requests.cpu", "1500m")},
		"services":                 {hard: quantities("services", "5", "services.nodeports", "5"), want: quantities("services", "1", "services.nodeports", "2")},
		"what was wrong is mended": {hard: quantities("pods", "5"), stale: quantities("pods", "7", "services", "1"), want: quantities("pods", "2")},
		"nothing in scope":         {hard: quantities("pods", "5"), scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}, want: quantities("pods", "0")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			quota := &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"},
				Spec:       corev1.ResourceQuotaSpec{Hard: tc.hard, Scopes: tc.scopes}, Status: corev1.ResourceQuotaStatus{Used: tc.stale},
			}
			c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithStatusSubresource(quota).WithObjects(quota).Build()
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(quota), quota); err != nil {
				t.Fatal(err)
			}
			r := &reconciler{written: map[types.NamespacedName]time.Time{}, env: &env.Env{Client: c, Clock: clock.RealClock{}}, quotas: listerOf(t, quota), pods: pods, services: services, claims: listerOf[*corev1.PersistentVolumeClaim](t)}
			if _, err := r.reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(quota)}); err != nil {
				t.Fatal(err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(quota), quota); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, quota.Status.Used); diff != "" {
				t.Error("used:", diff)
			}
			if diff := cmp.Diff(tc.hard, quota.Status.Hard); diff != "" {
				t.Error("hard:", diff)
			}
		})
	}
}

// TestCountsWhatWasUnderWay: an object that appears soon after the sum was set may be one that admission had added and the count took off.
func TestCountsWhatWasUnderWay(t *testing.T) {
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}}
	now := testingclock.NewFakeClock(time.Now())
	r := &reconciler{env: &env.Env{Clock: now}, quotas: listerOf(t, quota), written: map[types.NamespacedName]time.Time{}}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	defer queue.ShutDown()
	woken := func(namespace string) bool {
		r.appeared(namespace, queue)
		if queue.Len() == 0 {
			return false
		}
		key, _ := queue.Get()
		queue.Done(key)
		return true
	}
	if woken("ns") {
		t.Error("woken before any count")
	}
	r.wrote(client.ObjectKeyFromObject(quota))
	if woken("other") {
		t.Error("woken by an object of another namespace")
	}
	if !woken("ns") {
		t.Error("not woken by an object that may have been under way")
	}
	now.Step(underWay)
	if woken("ns") {
		t.Error("woken by an object that was admitted after the count")
	}
}
