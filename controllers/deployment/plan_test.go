package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func newDeployment(replicas int32, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Strategy: appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
		},
	}}
}

func set(name string, age int, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, AvailableReplicas: available},
	}
}

func TestFenceposts(t *testing.T) {
	cases := map[string]struct {
		replicas           int32
		surge, unavailable intstr.IntOrString
		want               [2]int32
	}{
		"percent rounds apart":    {10, intstr.FromString("25%"), intstr.FromString("25%"), [2]int32{3, 2}},
		"both zero":               {1, intstr.FromString("0%"), intstr.FromString("1%"), [2]int32{0, 1}},
		"no more than there are":  {2, intstr.FromInt32(1), intstr.FromInt32(5), [2]int32{1, 2}},
		"a Deployment of nothing": {0, intstr.FromInt32(2), intstr.FromInt32(1), [2]int32{2, 0}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			surge, unavailable := fenceposts(newDeployment(tc.replicas, tc.surge, tc.unavailable))
			if diff := cmp.Diff(tc.want, [2]int32{surge, unavailable}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// played is a ReplicaSet and what there is of it: its controller knows its size late, and its status follows late.
type played struct {
	*appsv1.ReplicaSet
	pods, available int32
	known           *appsv1.ReplicaSet      // as its controller knows it
	reported        appsv1.ReplicaSetStatus // on its way
}

func play(s *appsv1.ReplicaSet) *played {
	return &played{ReplicaSet: s, pods: s.Status.Replicas, available: s.Status.AvailableReplicas, known: s.DeepCopy(), reported: s.Status}
}

func resize(s *appsv1.ReplicaSet, replicas int32) {
	s.Spec.Replicas = &replicas
	s.Generation++
}

// follow is a step of the ReplicaSet's controller: it counts, and makes and removes pods, those first that are not available. It reports
// whether it removed one that was.
func (p *played) follow() bool {
	p.reported = appsv1.ReplicaSetStatus{Replicas: p.pods, AvailableReplicas: p.available, ObservedGeneration: p.known.Generation}
	surplus := p.pods - *p.known.Spec.Replicas
	p.pods = *p.known.Spec.Replicas
	if surplus <= 0 || p.available <= p.pods {
		return false
	}
	p.available = p.pods
	return true
}

// TestRolloutInvariants plays rollouts with sets that follow late and pods that become available at random, and checks after each step
// that there are never more than replicas + maxSurge pods and that no removal takes availability below replicas - maxUnavailable.
func TestRolloutInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 1000 {
		replicas := int32(random.IntN(12))
		d := newDeployment(replicas, intstr.FromInt32(int32(random.IntN(4))), intstr.FromInt32(int32(random.IntN(4))))
		surge, unavailable := fenceposts(d)
		sets := []*played{play(set("new", 0, 0, 0)), play(set("a", 20, replicas, replicas))}
		all := []*appsv1.ReplicaSet{sets[0].ReplicaSet, sets[1].ReplicaSet}
		done := false
		back := random.IntN(40) // step of a rollback, perhaps in the middle
		for step := 0; step < 2000 && !done; step++ {
			if step == back {
				slices.Reverse(sets)
				slices.Reverse(all)
			}
			p := sets[random.IntN(2)]
			removed := false
			switch random.IntN(5) {
			case 0:
				if want := newSetReplicas(d, all, all[0]); want != *all[0].Spec.Replicas {
					resize(all[0], want)
					break
				}
				for _, target := range planOld(d, all, all[1:], all[0]) {
					resize(target.set, target.replicas)
				}
			case 1:
				removed = p.follow()
			case 2:
				p.available = min(p.pods, p.available+1)
			case 3:
				p.Status = p.reported
			case 4:
				p.known = p.DeepCopy()
			}
			if total := sets[0].pods + sets[1].pods; total > replicas+surge {
				t.Fatalf("round %d step %d: %d pods, most is %d", round, step, total, replicas+surge)
			}
			if total := sets[0].available + sets[1].available; removed && total < replicas-unavailable {
				t.Fatalf("round %d step %d: %d pods are available, least is %d", round, step, total, replicas-unavailable)
			}
			done = sets[0].available == replicas && sets[1].pods == 0
		}
		if !done {
			t.Fatalf("round %d: %d replicas, surge %d, unavailable %d: the rollout did not end", round, replicas, surge, unavailable)
		}
	}
}

func shrinking(s *appsv1.ReplicaSet) *appsv1.ReplicaSet {
	s.Status.Replicas++
	return s
}

func TestPlanScale(t *testing.T) {
	sized := func(s *appsv1.ReplicaSet, desired, most int32) *appsv1.ReplicaSet {
		setSizeAnnotations(s, desired, most)
		return s
	}
	cases := map[string]struct {
		replicas int32
		new      *appsv1.ReplicaSet
		old      []*appsv1.ReplicaSet
		want     map[string]int32
	}{
		"the only one takes all": {20, sized(set("new", 0, 10, 10), 10, 13), nil, map[string]int32{"new": 20}},
		"in proportion, the larger gets the rest": {
			15, sized(set("new", 0, 5, 0), 10, 13), []*appsv1.ReplicaSet{sized(set("old", 10, 8, 8), 10, 13)}, map[string]int32{"old": 11, "new": 7},
		},
		"not before all have shrunk": {
			15, sized(set("new", 0, 5, 0), 10, 13), []*appsv1.ReplicaSet{sized(shrinking(set("old", 10, 8, 8)), 10, 13)}, map[string]int32{},
		},
		"down to nothing": {
			0, sized(set("new", 0, 5, 5), 10, 13), []*appsv1.ReplicaSet{sized(set("old", 10, 8, 8), 10, 13)}, map[string]int32{"old": 0, "new": 0},
		},
		"a finished rollout leaves nothing old": {
			5, sized(set("new", 0, 5, 5), 5, 7), []*appsv1.ReplicaSet{sized(set("old", 10, 2, 2), 5, 7)}, map[string]int32{"old": 0},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(tc.replicas, intstr.FromInt32(3), intstr.FromInt32(2))
			o := &rollout{d: d, new: tc.new, old: tc.old, sets: append([]*appsv1.ReplicaSet{tc.new}, tc.old...)}
			got := map[string]int32{}
			for _, target := range planScale(o) {
				got[target.set.Name] = target.replicas
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("sizes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnnotateKeepsHistory(t *testing.T) {
	d := newDeployment(1, intstr.FromInt32(1), intstr.FromInt32(0))
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "undo", RevisionAnnotation: "3"}
	s := set("a", 0, 0, 0)
	for _, revision := range []int64{1, 4, 7} {
		annotate(d, s, revision, true)
	}
	want := map[string]string{"kubernetes.io/change-cause": "undo", RevisionAnnotation: "7", revisionHistoryAnnotation: "1,4"}
	if diff := cmp.Diff(want, s.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestSurplusHistory(t *testing.T) {
	d := newDeployment(1, intstr.FromInt32(1), intstr.FromInt32(0))
	d.Spec.RevisionHistoryLimit = ptr.To[int32](1)
	var old []*appsv1.ReplicaSet
	for i := range 4 {
		s := set(fmt.Sprint(i), i, 0, 0)
		s.Annotations = map[string]string{RevisionAnnotation: fmt.Sprint(i)}
		old = append(old, s)
	}
	old[1].Spec.Replicas = ptr.To[int32](1)
	var names []string
	for _, s := range surplusHistory(d, old) {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"0", "2"}, names); diff != "" {
		t.Errorf("surplus (-want +got):\n%s", diff)
	}
}
