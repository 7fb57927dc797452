package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func inZone(zone string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = zone }
}

func labelled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{key: value} }
}

func spread(key string, maxSkew int32, when corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: maxSkew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		})
	}
}

func affinityTerm(app, key string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: key}}
}

func near(app, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: affinityTerm(app, key)}}
	}
}

func away(app, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: affinityTerm(app, key)}}
	}
}

func TestHardSpread(t *testing.T) {
	c := startCluster(t, testNode("a", inZone("1")), testNode("b", inZone("1")), testNode("c", inZone("2")))
	perZone := map[string]int{}
	for i := range 6 {
		name := fmt.Sprint("p", i)
		c.create(testPod(name, labelled("app", "web"), spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)))
		perZone[map[string]string{"a": "1", "b": "1", "c": "2"}[c.nodeOf(name)]]++
		if skew := perZone["1"] - perZone["2"]; skew > 1 || skew < -1 {
			t.Fatalf("after %d pods the zones have %v", i+1, perZone)
		}
	}
	node, err := c.client.CoreV1().Nodes().Get(t.Context(), "c", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node = node.DeepCopy()
	node.Spec.Unschedulable = true
	if _, err := c.client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.create(testPod("one-more", labelled("app", "web"), spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)))
	c.nodeOf("one-more")
	c.create(testPod("too-many", labelled("app", "web"), spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)))
	c.refused("too-many", "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints. "+
		"preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.")
}

func TestDefaultSpread(t *testing.T) {
	// Node a is emptier than b by what is requested, but has the Service's pods already.
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	c := startCluster(t, service, testNode("a"), testNode("b"))
	for i := range 4 {
		name := fmt.Sprint("seed", i)
		c.create(testPod(name, labelled("app", "web"), selector(corev1.LabelHostname, "a")))
		c.nodeOf(name)
	}
	c.create(testPod("fill", cpu("500m"), selector(corev1.LabelHostname, "b")))
	c.nodeOf("fill")
	c.create(testPod("next", labelled("app", "web")))
	if got := c.nodeOf("next"); got != "b" {
		t.Errorf("the pod is on %s, want b, where no pod of its Service is", got)
	}
}

func TestPodAffinity(t *testing.T) {
	c := startCluster(t, testNode("a", inZone("1")), testNode("b", inZone("1")), testNode("c", inZone("2")))
	// The first of a group that wants its own kind may go anywhere; the others follow it.
	c.create(testPod("g0", labelled("app", "group"), near("group", corev1.LabelHostname)))
	first := c.nodeOf("g0")
	for i := 1; i < 4; i++ {
		name := fmt.Sprint("g", i)
		c.create(testPod(name, labelled("app", "group"), near("group", corev1.LabelHostname)))
		if got := c.nodeOf(name); got != first {
			t.Errorf("%s is on %s, want %s", name, got, first)
		}
	}
	c.create(testPod("lonely", near("nobody", corev1.LabelHostname)))
	c.refused("lonely", "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. "+
		"preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.")
	c.create(testPod("friend", labelled("app", "nobody"), selector(corev1.LabelHostname, "c")))
	c.nodeOf("friend")
	if got := c.nodeOf("lonely"); got != "c" {
		t.Errorf("the pod is on %s, want c, where the pod it waited for is", got)
	}
}

func TestPodAntiAffinity(t *testing.T) {
	c := startCluster(t, testNode("a", inZone("1")), testNode("b", inZone("1")), testNode("c", inZone("2")))
	seen := map[string]bool{}
	for i := range 3 {
		name := fmt.Sprint("p", i)
		c.create(testPod(name, labelled("app", "db"), away("db", corev1.LabelHostname)))
		seen[c.nodeOf(name)] = true
	}
	if len(seen) != 3 {
		t.Errorf("three pods that stay apart are on %v", seen)
	}
	c.create(testPod("fourth", labelled("app", "db"), away("db", corev1.LabelHostname)))
	c.refused("fourth", "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. "+
		"preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.")
	// A pod without terms is kept away by those of the running ones.
	c.create(testPod("plain", labelled("app", "db")))
	c.refused("plain", "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules. "+
		"preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.")
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "p1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.nodeOf("fourth")
}
