package defaultpreemption

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A pod is kept out of the queue until the last of its victims goes.
func TestPreEnqueue(t *testing.T) {
	pod := func(uid string, ending bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "victim", UID: types.UID(uid)}}
		if ending {
			p.DeletionTimestamp = new(metav1.Now())
		}
		return p
	}
	cases := map[string]struct {
		preempting   bool
		last, cached *corev1.Pod
		want         bool // into the queue
	}{
		"no preemption":       {want: true},
		"others go first":     {preempting: true, cached: pod("1", true)},
		"the last is there":   {preempting: true, last: pod("1", false), cached: pod("1", false)},
		"the last is ending":  {preempting: true, last: pod("1", false), cached: pod("1", true), want: true},
		"the last has gone":   {preempting: true, last: pod("1", false), want: true},
		"another of its name": {preempting: true, last: pod("1", false), cached: pod("2", false), want: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
			if tc.cached != nil {
				if err := store.Add(tc.cached); err != nil {
					t.Fatal(err)
				}
			}
			p := &Plugin{pods: corelisters.NewPodLister(store), preempting: map[types.UID]*corev1.Pod{}}
			if tc.preempting {
				p.setPreempting("preemptor", tc.last)
			}
			preemptor := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "preemptor"}}
			if got := p.PreEnqueue(t.Context(), preemptor).IsSuccess(); got != tc.want {
				t.Errorf("into the queue: %t, want %t", got, tc.want)
			}
		})
	}
}
