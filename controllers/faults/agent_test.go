package faults

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"
)

// agents play scheduler and kubelets for the pods of a namespace: they bind, start, finish and end them, each after a short time.
type agents struct {
	client    kubernetes.Interface
	namespace string

	mu    sync.Mutex
	done  map[string]bool    // uid and stage
	ended map[types.UID]bool // pods that were ended here, as only agents may once a pod runs
	next  int
}

func newAgents(client kubernetes.Interface, namespace string) *agents {
	return &agents{client: client, namespace: namespace, done: map[string]bool{}, ended: map[types.UID]bool{}}
}

func (a *agents) run(ctx context.Context) {
	source := toolscache.NewListWatchFromClient(a.client.CoreV1().RESTClient(), "pods", a.namespace, fields.Everything())
	_, informer := toolscache.NewInformerWithOptions(toolscache.InformerOptions{
		ListerWatcher: toolscache.ToListWatcherWithWatchListSemantics(source, a.client), ObjectType: &corev1.Pod{},
		ResyncPeriod: 2 * time.Second, // takes up again what failed
		Handler: toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { a.see(ctx, obj.(*corev1.Pod)) },
			UpdateFunc: func(_, obj any) { a.see(ctx, obj.(*corev1.Pod)) },
		},
	})
	informer.RunWithContext(ctx)
}

// see starts the stage that a pod has come to, once.
func (a *agents) see(ctx context.Context, pod *corev1.Pod) {
	stage, act := a.stage(pod)
	if act == nil {
		return
	}
	key := string(pod.UID) + stage
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done[key] {
		return
	}
	a.done[key] = true
	time.AfterFunc(5*time.Millisecond+rand.N(60*time.Millisecond), func() {
		if err := act(ctx, pod); err != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.done, key)
		}
	})
}

func (a *agents) stage(pod *corev1.Pod) (string, func(context.Context, *corev1.Pod) error) {
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	job := metav1.GetControllerOf(pod) != nil && metav1.GetControllerOf(pod).Kind == "Job"
	switch {
	case pod.DeletionTimestamp != nil && pod.Spec.NodeName != "" && !finished && job:
		return "stop", a.finish(corev1.PodFailed)
	case pod.DeletionTimestamp != nil && *pod.DeletionGracePeriodSeconds > 0:
		return "end", a.end
	case pod.DeletionTimestamp != nil || finished:
	case pod.Spec.NodeName == "":
		return "bind", a.bind
	case pod.Status.Phase != corev1.PodRunning:
		return "start", a.start
	case job && pod.Annotations["fail"] != "" && firstByte(pod.UID)%4 == 0:
		return "fail", a.finish(corev1.PodFailed)
	case job:
		return "succeed", a.finish(corev1.PodSucceeded)
	}
	return "", nil
}

func firstByte(uid types.UID) int { return int(uid[0]) }

func (a *agents) bind(ctx context.Context, pod *corev1.Pod) error {
	return a.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: a.nodeFor(pod)},
	}, metav1.CreateOptions{})
}

func (a *agents) nodeFor(pod *corev1.Pod) string {
	if name := pinned(pod); name != "" {
		return name
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	return nodes[a.next%len(nodes)]
}

// pinned is the node that a DaemonSet made a pod for.
func pinned(pod *corev1.Pod) string {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil || pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			return field.Values[0]
		}
	}
	return ""
}

func (a *agents) start(ctx context.Context, pod *corev1.Pod) error {
	now := metav1.Now()
	return a.patch(ctx, pod, corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: "10.0.0.1",
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}},
	})
}

func (a *agents) finish(phase corev1.PodPhase) func(context.Context, *corev1.Pod) error {
	return func(ctx context.Context, pod *corev1.Pod) error {
		now := metav1.Now()
		return a.patch(ctx, pod, corev1.PodStatus{
			Phase:      phase,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "PodCompleted", LastTransitionTime: now}},
		})
	}
}

// patch writes a status for the pod as it was seen: one that was deleted meanwhile does not succeed any more, one that has succeeded does
// not fail.
func (a *agents) patch(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}, "status": status})
	if err != nil {
		return err
	}
	_, err = a.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}

func (a *agents) end(ctx context.Context, pod *corev1.Pod) error {
	a.mu.Lock()
	a.ended[pod.UID] = true
	a.mu.Unlock()
	return a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}
