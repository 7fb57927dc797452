// Package statusmanager brings pod statuses to the API server: at once, the newest only, as a patch of what has changed. It also
// deletes the API object of a pod that has been told to go and is gone from the node.
package statusmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"keelson.dev/kubelet-lite/metrics"
)

// writers bounds the requests at once: enough for a full node to report in one breath, too few to hurt an API server.
const writers = 8

// Manager is safe for concurrent use.
type Manager struct {
	// As, if set before Run, gives the context in which to write a pod's status: where one manager serves many nodes, each writes with
	// an identity of its own.
	As func(context.Context, *corev1.Pod) context.Context

	client kubernetes.Interface
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex
	pods map[types.UID]*entry
}

type entry struct {
	pod     *corev1.Pod // identity in the API
	known   corev1.PodStatus
	want    *corev1.PodStatus
	remove  bool
	version uint64
	written string    // resource version of our last write
	since   time.Time // of the oldest change that is not written; zero: all are
}

// New returns a manager; Run must be called for anything to be written.
func New(client kubernetes.Interface) *Manager {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 30*time.Second)
	return &Manager{client: client, queue: workqueue.NewTypedRateLimitingQueue(limiter), pods: map[types.UID]*entry{}}
}

// company is how long a change that few wait for stays for a greater one: the ID of a container that is about to start, the pod's
// generation when it is about to end. Longer, and who updates a pod twice a second would meet our write each time.
const company = 200 * time.Millisecond

// Set records the newest status of the API object pod; pod.Status is what the API is known to have.
func (m *Manager) Set(pod *corev1.Pod, status corev1.PodStatus) {
	m.mu.Lock()
	e := m.pods[pod.UID]
	if e == nil {
		e = &entry{known: *pod.Status.DeepCopy()}
		m.pods[pod.UID] = e
	}
	last := &e.known
	if e.want != nil {
		last = e.want
	}
	small := minor(last, &status)
	e.pod, e.want = pod, &status
	e.version++
	if e.since.IsZero() {
		e.since = time.Now()
	}
	m.mu.Unlock()
	if small {
		m.queue.AddAfter(pod.UID, company)
		return
	}
	m.queue.Add(pod.UID)
}

// minor says whether a status tells nothing more about a pod's progress than the one before: phase, addresses, conditions that are met
// and what each container does are the same. That its sandbox is gone adds nothing to an end that is told next.
func minor(before, after *corev1.PodStatus) bool {
	if before.Phase != after.Phase || len(before.PodIPs) != len(after.PodIPs) || len(before.Conditions) != len(after.Conditions) {
		return false
	}
	for i, c := range after.Conditions {
		b := before.Conditions[i]
		if b.Type != c.Type || (b.Status != c.Status && (c.Type != corev1.PodReadyToStartContainers || c.Status == corev1.ConditionTrue)) {
			return false
		}
	}
	same := func(a, b corev1.ContainerStatus) bool {
		return a.Name == b.Name && a.Ready == b.Ready && a.RestartCount == b.RestartCount && ptr.Deref(a.Started, false) == ptr.Deref(b.Started, false) &&
			equality.Semantic.DeepEqual(a.State, b.State) && equality.Semantic.DeepEqual(a.Resources, b.Resources)
	}
	return slices.EqualFunc(before.InitContainerStatuses, after.InitContainerStatuses, same) &&
		slices.EqualFunc(before.ContainerStatuses, after.ContainerStatuses, same) &&
		slices.EqualFunc(before.EphemeralContainerStatuses, after.EphemeralContainerStatuses, same)
}

// Remove deletes the API object once its last status has been written.
func (m *Manager) Remove(pod *corev1.Pod) {
	m.mu.Lock()
	e := m.pods[pod.UID]
	if e == nil {
		e = &entry{known: *pod.Status.DeepCopy()}
		m.pods[pod.UID] = e
	}
	e.pod, e.remove = pod, true
	m.mu.Unlock()
	m.queue.Add(pod.UID)
}

// Forget drops a pod that is gone from the API.
func (m *Manager) Forget(uid types.UID) {
	m.mu.Lock()
	delete(m.pods, uid)
	m.mu.Unlock()
	m.queue.Forget(uid)
}

// Observe takes what the watch says about a pod. Should somebody else have changed what is ours, it is written again.
func (m *Manager) Observe(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[pod.UID]
	if e == nil || e.want == nil || !equality.Semantic.DeepEqual(e.known, *e.want) || !newer(pod.ResourceVersion, e.written) {
		return
	}
	known := *pod.Status.DeepCopy()
	known.Conditions = nil
	for _, c := range pod.Status.Conditions {
		if slices.ContainsFunc(e.want.Conditions, func(w corev1.PodCondition) bool { return w.Type == c.Type }) {
			known.Conditions = append(known.Conditions, c)
		}
	}
	if e.known = known; !equality.Semantic.DeepEqual(known, *e.want) {
		m.queue.Add(pod.UID)
	}
}

// newer compares resource versions, which are numbers of one counter.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && (errY != nil || x > y)
}

// Latest returns the newest status that was set for a pod.
func (m *Manager) Latest(uid types.UID) (corev1.PodStatus, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.pods[uid]; e != nil && e.want != nil {
		return *e.want.DeepCopy(), true
	}
	return corev1.PodStatus{}, false
}

// Run writes until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for m.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	m.queue.ShutDown()
	wg.Wait()
}

func (m *Manager) next(ctx context.Context) bool {
	uid, quit := m.queue.Get()
	if quit {
		return false
	}
	defer m.queue.Done(uid)
	if err := m.write(ctx, uid); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Info("Pod status not written, will try again", "podUID", uid, "err", err)
		m.queue.AddRateLimited(uid)
		return true
	}
	m.queue.Forget(uid)
	return true
}

func (m *Manager) write(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	e := m.pods[uid]
	if e == nil {
		m.mu.Unlock()
		return nil
	}
	pod, known, want, remove, version := e.pod, e.known, e.want, e.remove, e.version
	m.mu.Unlock()
	if m.As != nil {
		ctx = m.As(ctx, pod)
	}
	if want != nil && !equality.Semantic.DeepEqual(known, *want) {
		after, err := m.patch(ctx, pod, known, *want)
		if isGone(err) {
			return nil // the watch will tell, or another pod has taken the name
		}
		if err != nil {
			return err
		}
		m.mu.Lock()
		e.known, e.written = *want, after
		metrics.PodStatusSync.Observe(time.Since(e.since).Seconds())
		again := e.version != version
		if e.since = (time.Time{}); again {
			e.since = time.Now()
		}
		m.mu.Unlock()
		if again {
			m.queue.Add(uid)
			return nil
		}
	}
	if !remove {
		return nil
	}
	zero := int64(0)
	err := m.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !isGone(err) {
		return err
	}
	m.mu.Lock()
	e.remove = false // or each later status would delete it again
	m.mu.Unlock()
	return nil
}

func isGone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// patch sends the difference. The UID in it makes the API server refuse it for a successor of the same name.
func (m *Manager) patch(ctx context.Context, pod *corev1.Pod, known, want corev1.PodStatus) (resourceVersion string, err error) {
	before, err := json.Marshal(corev1.Pod{Status: known})
	if err != nil {
		return "", fmt.Errorf("encode known status: %w", err)
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: want})
	if err != nil {
		return "", fmt.Errorf("encode wanted status: %w", err)
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return "", fmt.Errorf("compute status patch: %w", err)
	}
	result, err := m.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return "", err
	}
	return result.ResourceVersion, nil
}
