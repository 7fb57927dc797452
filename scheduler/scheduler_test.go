package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	configv1 "k8s.io/kube-scheduler/config/v1"
)

// cluster is a scheduler on a fake API that keeps bindings.
type cluster struct {
	t         *testing.T
	client    *fake.Clientset
	scheduler *Scheduler
}

func startCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	return startConfigured(t, &configv1.KubeSchedulerConfiguration{}, objects...)
}

func startConfigured(t *testing.T, conf *configv1.KubeSchedulerConfiguration, objects ...runtime.Object) *cluster {
	t.Helper()
	client := fake.NewClientset(objects...)
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "resource.k8s.io/v1"}}
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, ok := action.(clienttesting.CreateAction)
		if !ok || action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		binding := create.GetObject().(*corev1.Binding)
		obj, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = binding.Target.Name
		return true, binding, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, pod.Namespace)
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := newScheduler(ctx, client, nil, conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, func(ctx context.Context) error { s.loop(ctx); return nil }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &cluster{t, client, s}
}

func (c *cluster) eventually(what string, check func(context.Context) (bool, error)) {
	c.t.Helper()
	if err := wait.PollUntilContextTimeout(c.t.Context(), 2*time.Millisecond, 10*time.Second, true, check); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

func (c *cluster) create(pod *corev1.Pod) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Pods(pod.Namespace).Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// nodeOf waits until the pod is bound.
func (c *cluster) nodeOf(name string) string {
	c.t.Helper()
	var node string
	c.eventually("pod "+name+" is bound", func(ctx context.Context) (bool, error) {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		node = pod.Spec.NodeName
		return node != "", nil
	})
	return node
}

// refused waits until the pod's condition says the message.
func (c *cluster) refused(name, message string) {
	c.t.Helper()
	last := ""
	defer func() {
		if last != message {
			c.t.Errorf("pod %s: the condition says %q, want %q", name, last, message)
		}
	}()
	c.eventually("pod "+name+" is refused", func(ctx context.Context) (bool, error) {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Reason == corev1.PodReasonUnschedulable {
				last = cond.Message
			}
		}
		return last == message, nil
	})
}

func testNode(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func testPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "c", Image: "pause"}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func cpu(q string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}
	}
}

func selector(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func hostPort(ip string, port int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: port, ContainerPort: port, Protocol: protocol}}
	}
}

func tainted(n *corev1.Node) {
	n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
}

func TestSpread(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"), testNode("c"))
	count := map[string]int{}
	for i := range 9 {
		name := fmt.Sprint("p", i)
		c.create(testPod(name, cpu("300m")))
		count[c.nodeOf(name)]++
	}
	for node, n := range count {
		if n != 3 {
			t.Errorf("node %s has %d of 9 equal pods, want 3 (all: %v)", node, n, count)
		}
	}
}

func TestRefusals(t *testing.T) {
	c := startCluster(t,
		testNode("a", tainted), testNode("b"), testNode("c", func(n *corev1.Node) { n.Spec.Unschedulable = true }))

	c.create(testPod("big", cpu("3")))
	c.refused("big", "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.")
	c.create(testPod("picky", selector("disk", "ssd")))
	c.refused("picky", "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.")
	c.eventually("a FailedScheduling event is there", func(ctx context.Context) (bool, error) {
		events, err := c.client.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Reason == "FailedScheduling" && strings.HasPrefix(e.Note, "0/3 nodes are available: ")
		}), nil
	})
}

func TestRequeue(t *testing.T) {
	c := startCluster(t, testNode("a"))
	c.create(testPod("full", cpu("2")))
	c.nodeOf("full")
	c.create(testPod("waits", cpu("1")))
	c.refused("waits", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "full", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.nodeOf("waits")

	c.create(testPod("labelled", selector("disk", "ssd")))
	c.refused("labelled", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	node := testNode("b")
	node.Labels["disk"] = "ssd"
	if _, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.nodeOf("labelled"); got != "b" {
		t.Errorf("labelled is on %s, want b", got)
	}
}

func TestNoNodes(t *testing.T) {
	c := startCluster(t)
	c.create(testPod("first"))
	c.refused("first", "no nodes available to schedule pods")
	if _, err := c.client.CoreV1().Nodes().Create(t.Context(), testNode("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.nodeOf("first")
}

func TestHostPorts(t *testing.T) {
	c := startCluster(t, testNode("a"))
	for i, f := range []func(*corev1.Pod){
		hostPort("127.0.0.1", 54321, corev1.ProtocolTCP),
		hostPort("10.0.0.9", 54321, corev1.ProtocolTCP),
		hostPort("10.0.0.9", 54321, corev1.ProtocolUDP),
	} {
		name := fmt.Sprint("p", i)
		c.create(testPod(name, f))
		c.nodeOf(name)
	}
	c.create(testPod("clash", hostPort("", 54321, corev1.ProtocolTCP)))
	c.refused("clash", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
}

func TestGates(t *testing.T) {
	c := startCluster(t, testNode("a"))
	c.create(testPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} }))
	c.create(testPod("other"))
	c.nodeOf("other")
	pod, err := c.client.CoreV1().Pods("default").Get(t.Context(), "gated", metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != "" {
		t.Fatalf("the gated pod is on %q (%v)", pod.Spec.NodeName, err)
	}
	pod.Spec.SchedulingGates = nil
	if _, err := c.client.CoreV1().Pods("default").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.nodeOf("gated")
}

func TestDaemonPodGoesToItsNode(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"), testNode("c"))
	c.create(testPod("daemon", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}},
			}}},
		}}}
	}))
	if got := c.nodeOf("daemon"); got != "b" {
		t.Errorf("the pod is on %s, want b", got)
	}
}

func prio(value int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &value } }

func TestPreemption(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"))
	c.create(testPod("low", cpu("1500m"), prio(1), selector(corev1.LabelHostname, "a")))
	c.nodeOf("low")
	c.create(testPod("middle", cpu("1500m"), prio(5), selector(corev1.LabelHostname, "b")))
	c.nodeOf("middle")
	c.create(testPod("equal", cpu("1"), prio(1)))
	c.refused("equal", "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.")
	c.create(testPod("high", cpu("1"), prio(10)))
	if got := c.nodeOf("high"); got != "a" {
		t.Errorf("the pod of high priority is on %s, want a, where the victim's priority is lowest", got)
	}
	if _, err := c.client.CoreV1().Pods("default").Get(t.Context(), "low", metav1.GetOptions{}); err == nil {
		t.Error("the victim is still there")
	}
	never := corev1.PreemptNever
	c.create(testPod("polite", cpu("1"), prio(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never }))
	c.refused("polite", "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.")
}
