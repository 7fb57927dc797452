package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// Where sums decide who must go, the same pods go from the same node as where every filter is asked.
func TestPreemptionByResources(t *testing.T) {
	victims := func(h *harness) (out []string) {
		for _, a := range h.client.(*fake.Clientset).Actions() {
			if p, ok := a.(clienttesting.PatchAction); ok && p.GetResource().Resource == "pods" {
				out = append(out, p.GetName())
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	preempted := 0
	for seed := range uint64(300) {
		var nominated [2]string
		var h [2]*harness
		for i := range h {
			r := rand.New(rand.NewPCG(seed, 1))
			h[i] = newHarness(t, nil)
			if i == 1 {
				h[i].engines = nil // the plain path
			}
			budget := &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"},
				Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"kept": "yes"}}},
				Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1},
			}
			if err := h[i].informers.Policy().V1().PodDisruptionBudgets().Informer().GetStore().Add(budget); err != nil {
				t.Fatal(err)
			}
			for n := range 1 + r.IntN(12) {
				node := perfNode(n)
				node.Status.Allocatable[corev1.ResourcePods] = *resource.NewQuantity(int64(2+r.IntN(8)), resource.DecimalSI)
				h[i].cache.SetNode(node)
				for p := range r.IntN(8) {
					pod := perfPod(fmt.Sprintf("low-%d-%d", n, p), prio(int32(r.IntN(1_000_000))), labelled("kept", []string{"yes", "no"}[r.IntN(2)]))
					pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(r.IntN(2000)), resource.DecimalSI)
					pod.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = *resource.NewQuantity(int64(r.IntN(16))<<30, resource.BinarySI)
					pod.Spec.NodeName = node.Name
					pod.Status.StartTime = &metav1.Time{Time: time.Unix(int64(r.IntN(1000)), 0)}
					h[i].cache.SetPod(info(t, pod))
				}
			}
			high := perfPod("high", prio(int32(200_000+r.IntN(1_000_000))))
			high.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(2000+r.IntN(2000)), resource.DecimalSI)
			h[i].queue.Add(t.Context(), info(t, high))
			if _, _, failed := h[i].schedule(); failed != nil && failed.nominating != nil {
				nominated[i] = failed.nominating.NominatedNodeName
			}
		}
		if nominated[0] != nominated[1] {
			t.Fatalf("seed %d: room is made on %q, by the filters on %q", seed, nominated[0], nominated[1])
		}
		if nominated[0] == "" {
			continue
		}
		preempted++
		same := func(context.Context) (bool, error) {
			return len(victims(h[0])) > 0 && slices.Equal(victims(h[0]), victims(h[1])), nil
		}
		if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 5*time.Second, true, same); err != nil {
			t.Fatalf("seed %d: %s go, by the filters %s", seed, strings.Join(victims(h[0]), " "), strings.Join(victims(h[1]), " "))
		}
	}
	if preempted < 50 {
		t.Errorf("only %d of the clusters needed preemption", preempted)
	}
}

// Among many nodes the search does not end before it has found one where no budget is broken.
func TestPreemptionSparesBudgets(t *testing.T) {
	for round := range 20 {
		h := newHarness(t, nil)
		if round%2 == 1 {
			h.engines = nil // the plain path
		}
		budget := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"kept": "yes"}}},
		}
		if err := h.informers.Policy().V1().PodDisruptionBudgets().Informer().GetStore().Add(budget); err != nil {
			t.Fatal(err)
		}
		for n := range 150 {
			node := perfNode(n)
			h.cache.SetNode(node)
			pod := perfPod(fmt.Sprint("low-", n), cpu("3"), labelled("kept", map[bool]string{true: "no", false: "yes"}[n == 70]))
			pod.Spec.NodeName = node.Name
			h.cache.SetPod(info(t, pod))
		}
		h.queue.Add(t.Context(), info(t, perfPod("high", prio(10), cpu("3"))))
		_, _, failed := h.schedule()
		if failed == nil || failed.nominating == nil || failed.nominating.NominatedNodeName != "node-70" {
			t.Fatalf("round %d: %+v, want node-70, whose pod no budget keeps", round, failed)
		}
	}
}
