package defaultpreemption

import (
	"cmp"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	fwk "k8s.io/kube-scheduler/framework"
)

// candidate is a node and what must go from it.
type candidate struct {
	node       string
	victims    []*corev1.Pod
	violations int // victims whose disruption budget does not allow it
}

// choose returns the candidate that loses least. Each criterion decides only where those before it are even; the last one, the
// order of the candidates, is random.
func choose(candidates []candidate) candidate {
	return slices.MinFunc(candidates, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.violations, b.violations),
			cmp.Compare(a.highest(), b.highest()),
			cmp.Compare(a.sum(), b.sum()),
			cmp.Compare(len(a.victims), len(b.victims)),
			b.earliestOfHighest().Compare(a.earliestOfHighest()), // the younger pods
		)
	})
}

func (c candidate) highest() int32 {
	highest := int32(math.MinInt32)
	for _, v := range c.victims {
		highest = max(highest, priority(v))
	}
	return highest
}

// sum adds priorities, shifted so that several pods of a negative priority weigh more than one.
func (c candidate) sum() int64 {
	var sum int64
	for _, v := range c.victims {
		sum += int64(priority(v)) + int64(math.MaxInt32+1)
	}
	return sum
}

func (c candidate) earliestOfHighest() time.Time {
	var earliest time.Time
	for _, v := range c.victims {
		if t := started(v); priority(v) == c.highest() && (earliest.IsZero() || t.Before(earliest)) {
			earliest = t
		}
	}
	return earliest
}

// farFuture stands for pods that have not started: they are the youngest.
var farFuture = time.Unix(1<<40, 0)

func started(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime == nil {
		return farFuture
	}
	return pod.Status.StartTime.Time
}

// byImportance sorts the most important pod first: by priority, then the one that has run longer.
func byImportance(a, b fwk.PodInfo) int {
	return cmp.Or(cmp.Compare(priority(b.GetPod()), priority(a.GetPod())), started(a.GetPod()).Compare(started(b.GetPod())))
}

// splitByBudgets separates the pods whose eviction would break a disruption budget; both lists are sorted by importance.
func splitByBudgets(pods []fwk.PodInfo, budgets []*policyv1.PodDisruptionBudget) (violating, others []fwk.PodInfo) {
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
	}
	pods = slices.Clone(pods)
	slices.SortStableFunc(pods, byImportance)
	for _, info := range pods {
		broken := false
		for i, b := range budgets {
			if !covers(b, info.GetPod()) {
				continue
			}
			if allowed[i]--; allowed[i] < 0 {
				broken = true
				break
			}
		}
		if broken {
			violating = append(violating, info)
			continue
		}
		others = append(others, info)
	}
	return violating, others
}

// covers says whether a budget counts the pod's eviction: it selects it and has not counted it already.
func covers(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	if b.Namespace != pod.Namespace || len(pod.Labels) == 0 {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	_, counted := b.Status.DisruptedPods[pod.Name]
	return !counted
}
