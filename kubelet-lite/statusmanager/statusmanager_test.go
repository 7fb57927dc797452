package statusmanager

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func newPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "1"},
		Status:     corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: "x/gate", Status: "True"}}},
	}
}

func start(t *testing.T, client *fake.Clientset) *Manager {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := New(client)
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return f(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func get(t *testing.T, client *fake.Clientset) *corev1.Pod {
	t.Helper()
	pod, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return pod
}

func running(pod *corev1.Pod) corev1.PodStatus {
	s := *pod.Status.DeepCopy()
	s.Phase, s.PodIP = corev1.PodRunning, "10.0.0.1"
	s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: "True"})
	return s
}

func TestStatusIsWritten(t *testing.T) {
	pod := newPod()
	client := fake.NewClientset(pod)
	m := start(t, client)
	want := running(pod)
	m.Set(pod, want)
	eventually(t, "status", func() bool { return get(t, client).Status.Phase == corev1.PodRunning })
	if diff := cmp.Diff(want, get(t, client).Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	before := len(client.Actions())
	m.Set(pod, want)
	m.Remove(pod) // comes after the status in the queue
	eventually(t, "removal", func() bool { return get(t, client).Name == "" })
	for _, a := range client.Actions()[before:] {
		if a.GetVerb() == "patch" {
			t.Error("an unchanged status was written again")
		}
	}
}

func TestFailedWriteIsRepeated(t *testing.T) {
	pod := newPod()
	client := fake.NewClientset(pod)
	failures := 2
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		failures--
		return failures >= 0, nil, errors.New("the API server is away")
	})
	m := start(t, client)
	m.Set(pod, running(pod))
	eventually(t, "status", func() bool { return get(t, client).Status.Phase == corev1.PodRunning })
}

func TestOthersDoNotGetTheLastWord(t *testing.T) {
	pod := newPod()
	client := fake.NewClientset(pod)
	m := start(t, client)
	m.Set(pod, running(pod))
	eventually(t, "status", func() bool { return get(t, client).Status.Phase == corev1.PodRunning })

	meddled := get(t, client).DeepCopy()
	meddled.ResourceVersion, meddled.Status.Phase = "99", corev1.PodFailed
	meddled.Status.Conditions = append(meddled.Status.Conditions, corev1.PodCondition{Type: "y/other", Status: "True"})
	meddled, err := client.CoreV1().Pods("ns").UpdateStatus(t.Context(), meddled, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "correction", func() bool { m.Observe(meddled); return get(t, client).Status.Phase == corev1.PodRunning })
	found := false
	for _, c := range get(t, client).Status.Conditions {
		found = found || c.Type == "y/other"
	}
	if !found {
		t.Error("the correction took away another writer's condition")
	}
}

func TestMinor(t *testing.T) {
	base := func() *corev1.PodStatus {
		return &corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIPs:     []corev1.PodIP{{IP: "10.0.0.1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: "True"}, {Type: corev1.PodReady, Status: "False"}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "a", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
			}},
		}
	}
	for name, tc := range map[string]struct {
		change func(*corev1.PodStatus)
		want   bool
	}{
		"container ID":    {func(s *corev1.PodStatus) { s.ContainerStatuses[0].ContainerID = "x://1" }, true},
		"generation":      {func(s *corev1.PodStatus) { s.ObservedGeneration = 2 }, true},
		"sandbox is gone": {func(s *corev1.PodStatus) { s.Conditions[0].Status = "False" }, true},
		"phase":           {func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed }, false},
		"address":         {func(s *corev1.PodStatus) { s.PodIPs = nil }, false},
		"ready":           {func(s *corev1.PodStatus) { s.Conditions[1].Status = "True" }, false},
		"condition":       {func(s *corev1.PodStatus) { s.Conditions = s.Conditions[:1] }, false},
		"waits for else":  {func(s *corev1.PodStatus) { s.ContainerStatuses[0].State.Waiting.Reason = "ErrImagePull" }, false},
		"runs": {func(s *corev1.PodStatus) {
			s.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}, false},
		"started":          {func(s *corev1.PodStatus) { s.ContainerStatuses[0].Started = new(true) }, false},
		"init container":   {func(s *corev1.PodStatus) { s.InitContainerStatuses = s.ContainerStatuses }, false},
		"actual resources": {func(s *corev1.PodStatus) { s.ContainerStatuses[0].Resources = &corev1.ResourceRequirements{} }, false},
	} {
		before, after := base(), base()
		tc.change(after)
		if got := minor(before, after); got != tc.want {
			t.Errorf("%s: minor is %t, want %t", name, got, tc.want)
		}
	}
}

// TestMinorChangesTravelTogether has a small change that a great one follows, and one that none follows.
func TestMinorChangesTravelTogether(t *testing.T) {
	pod := newPod()
	client := fake.NewClientset(pod)
	m := start(t, client)
	status := *pod.Status.DeepCopy()
	status.ObservedGeneration = 1
	m.Set(pod, status)
	m.Set(pod, running(pod))
	eventually(t, "status", func() bool { return get(t, client).Status.Phase == corev1.PodRunning })
	status = running(pod)
	status.ObservedGeneration = 2
	m.Set(pod, status)
	eventually(t, "the small change alone", func() bool { return get(t, client).Status.ObservedGeneration == 2 })
	patches := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			patches++
		}
	}
	if patches != 2 {
		t.Errorf("%d patches, want 2: the first change has no patch of its own", patches)
	}
}
