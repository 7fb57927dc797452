package statefulset

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/controllers/revision"
)

var now = time.Unix(100000, 0)

func newSet(replicas int32, change func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{},
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
	}}
	if change != nil {
		change(set)
	}
	return set
}

func parallel(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

// pods are written as "state@revision", one word per ordinal; "-" is none.
func podsOf(set *appsv1.StatefulSet, words ...string) []*corev1.Pod {
	var pods []*corev1.Pod
	for i, word := range words {
		if word == "-" {
			continue
		}
		var state, rev string
		fmt.Sscanf(word, "%1s@%s", &state, &rev)
		pod := newPod(set, &set.Spec.Template, rev, start(set)+i)
		pod.UID = types.UID(pod.Name)
		switch state {
		case "R":
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
		case "U":
			pod.Status.Phase = corev1.PodRunning
		case "P":
			pod.Status.Phase = corev1.PodPending
		case "F":
			pod.Status.Phase = corev1.PodFailed
		case "T":
			pod.Status.Phase = corev1.PodRunning
			pod.DeletionTimestamp = new(metav1.NewTime(now))
		}
		pods = append(pods, pod)
	}
	return pods
}

func TestPlanSteps(t *testing.T) {
	partition := func(n int32) func(*appsv1.StatefulSet) {
		return func(set *appsv1.StatefulSet) {
			set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
		}
	}
	maxUnavailable := func(set *appsv1.StatefulSet) {
		parallel(set)
		set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: new(intstr.FromInt32(2))}
	}
	cases := map[string]struct {
		set  *appsv1.StatefulSet
		pods []string
		want []string
	}{
		"the first one":                                 {newSet(3, nil), nil, []string{"create db-0"}},
		"in order":                                      {newSet(3, nil), []string{"R@new"}, []string{"create db-1"}},
		"not before the one before is ready":            {newSet(3, nil), []string{"U@new"}, nil},
		"a gap first":                                   {newSet(3, nil), []string{"R@new", "-", "R@new"}, []string{"create db-1"}},
		"claims of one that waits":                      {newSet(1, nil), []string{"P@new"}, []string{"claims db-0"}},
		"all at once":                                   {newSet(3, parallel), nil, []string{"create db-0", "create db-1", "create db-2"}},
		"a failed one goes first":                       {newSet(2, nil), []string{"F@new"}, []string{"remove db-0"}},
		"scale down from the top":                       {newSet(1, nil), []string{"R@new", "R@new", "R@new"}, []string{"remove db-2"}},
		"scale down one at a time":                      {newSet(1, nil), []string{"R@new", "R@new", "T@new"}, nil},
		"scale down waits for a broken one":             {newSet(1, nil), []string{"U@new", "R@new", "R@new"}, nil},
		"a broken surplus one goes":                     {newSet(1, nil), []string{"R@new", "U@new"}, []string{"remove db-1"}},
		"scale down all at once":                        {newSet(1, parallel), []string{"R@new", "R@new", "R@new"}, []string{"remove db-2", "remove db-1"}},
		"update from the top":                           {newSet(3, nil), []string{"R@old", "R@old", "R@old"}, []string{"remove db-2"}},
		"update goes on downwards":                      {newSet(3, nil), []string{"R@old", "R@old", "R@new"}, []string{"remove db-1"}},
		"update waits for the one before":               {newSet(3, nil), []string{"R@old", "R@old", "U@new"}, nil},
		"update stops at the partition":                 {newSet(3, partition(2)), []string{"R@old", "R@old", "R@new"}, nil},
		"an old pod below the partition comes back old": {newSet(3, partition(2)), []string{"R@old", "-", "R@new"}, []string{"create db-1@old"}},
		"two at a time":                                 {newSet(3, maxUnavailable), []string{"R@old", "R@old", "R@old"}, []string{"remove db-2", "remove db-1"}},
		"two at a time counts the broken":               {newSet(4, maxUnavailable), []string{"R@old", "R@old", "R@old", "U@new"}, []string{"remove db-2"}},
		"a broken old one is replaced at once":          {newSet(2, parallel), []string{"U@old", "R@old"}, []string{"remove db-0"}},
		"a missing one holds up nobody who need not wait": {
			newSet(4, maxUnavailable), []string{"R@old", "R@old", "-", "F@old"}, []string{"create db-2", "remove db-3"},
		},
		"a missing one counts as broken":    {newSet(3, maxUnavailable), []string{"R@old", "R@old", "-"}, []string{"create db-2", "remove db-1"}},
		"surplus ones go while others come": {newSet(2, parallel), []string{"-", "R@new", "R@new"}, []string{"create db-0", "remove db-2"}},
		"on delete": {newSet(1, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}), []string{"R@old"}, nil},
		"other first ordinal": {newSet(1, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }), nil, []string{"create db-5"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.set.Status.CurrentRevision = "old"
			update := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "new"}}
			old := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "old"}}
			old.Data.Raw = []byte(`{"spec":{"template":{}}}`)
			v, err := newView(tc.set, podsOf(tc.set, tc.pods...), []*appsv1.ControllerRevision{old, update}, update, now)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range planSteps(v) {
				text := map[verb]string{create: "create", remove: "remove", claims: "claims", repair: "repair"}[s.verb] + " " + s.pod.Name
				if s.verb == create && s.pod.Labels[revision.HashLabel] != "new" {
					text += "@" + s.pod.Labels[revision.HashLabel]
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}
