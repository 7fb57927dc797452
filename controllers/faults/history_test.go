package faults

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// change is one event of the watch history.
type change struct {
	revision uint64
	at       time.Time
	gone     bool
	object   metav1.Object
}

// history is what happened in a namespace, over all kinds, and what of it people did.
type history struct {
	mu      sync.Mutex
	changes []change
	taken   map[types.UID]time.Time // pods that people deleted or made unready, and when
}

// record watches all kinds that the checker looks at until ctx ends; wait for the returned group then.
func record(ctx context.Context, t *testing.T, client kubernetes.Interface, namespace string) (*history, *sync.WaitGroup) {
	t.Helper()
	h, group := &history{taken: map[types.UID]time.Time{}}, &sync.WaitGroup{}
	ns, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	must(t, err)
	apps := client.AppsV1().RESTClient()
	for kind, rest := range map[string]toolscache.Getter{
		"pods": client.CoreV1().RESTClient(), "replicasets": apps, "deployments": apps, "statefulsets": apps, "daemonsets": apps, "jobs": client.BatchV1().RESTClient(),
	} {
		source := toolscache.NewListWatchFromClient(rest, kind, namespace, fields.Everything())
		w, err := toolswatch.NewRetryWatcherWithContext(ctx, ns.ResourceVersion, source)
		must(t, err)
		group.Go(func() {
			for event := range w.ResultChan() {
				if ctx.Err() == nil {
					h.add(t, event)
				}
			}
			if ctx.Err() == nil {
				t.Error("a watch of the history has ended")
			}
		})
	}
	return h, group
}

func (h *history) add(t *testing.T, event watch.Event) {
	if event.Type == watch.Bookmark {
		return
	}
	object, ok := event.Object.(metav1.Object)
	if !ok {
		t.Errorf("watch: %v", event.Object)
		return
	}
	revision, err := strconv.ParseUint(object.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Errorf("resource version: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, change{revision: revision, at: time.Now(), gone: event.Type == watch.Deleted, object: object})
}

// take notes that a person is about to take a pod out of service.
func (h *history) take(uid types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken[uid] = time.Now()
}

// caughtUp says what the history has not heard of yet. Each kind has a watch of its own, and one may lag behind the others: a history
// that ends meanwhile would show a Job that counts pods nobody saw succeed.
func (h *history) caughtUp(ctx context.Context, client kubernetes.Interface, namespace string) error {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	known := map[types.UID]string{}
	for _, change := range h.inOrder() {
		switch pod, ok := change.object.(*corev1.Pod); {
		case ok && change.gone:
			delete(known, pod.UID)
		case ok:
			known[pod.UID] = pod.ResourceVersion
		}
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if known[pod.UID] != pod.ResourceVersion {
			return fmt.Errorf("pod %s is at revision %s, the history at %q", pod.Name, pod.ResourceVersion, known[pod.UID])
		}
		delete(known, pod.UID)
	}
	if len(known) > 0 {
		return fmt.Errorf("%d pods are gone, and the history has them still", len(known))
	}
	return nil
}

// inOrder returns all changes so far by revision, which counts over all kinds.
func (h *history) inOrder() []change {
	h.mu.Lock()
	defer h.mu.Unlock()
	sorted := slices.Clone(h.changes)
	slices.SortStableFunc(sorted, func(a, b change) int { return int(int64(a.revision) - int64(b.revision)) })
	return sorted
}

func kindOf(object metav1.Object) string {
	switch object.(type) {
	case *corev1.Pod:
		return "Pod"
	case *appsv1.ReplicaSet:
		return "ReplicaSet"
	case *appsv1.Deployment:
		return "Deployment"
	case *appsv1.StatefulSet:
		return "StatefulSet"
	case *appsv1.DaemonSet:
		return "DaemonSet"
	case *batchv1.Job:
		return "Job"
	}
	return ""
}
