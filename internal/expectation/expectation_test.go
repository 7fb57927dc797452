package expectation

import (
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// view is a store at a version.
type view struct {
	version string
	pods    map[string]*corev1.Pod
}

func (v *view) LastStoreSyncResourceVersion() string { return v.version }
func (v *view) GetByKey(key string) (any, bool, error) {
	pod, ok := v.pods[key]
	return pod, ok, nil
}

func pod(uid, version string, deleting bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: types.UID(uid), ResourceVersion: version}}
	if deleting {
		p.DeletionTimestamp = new(metav1.Now())
	}
	return p
}

func TestSatisfied(t *testing.T) {
	const owner = types.UID("owner")
	cases := map[string]struct {
		record func(*Tracker)
		view   view
		want   bool
	}{
		"nothing recorded":              {func(*Tracker) {}, view{version: "5"}, true},
		"the cache is behind a create":  {func(t *Tracker) { t.Wrote(owner, pod("a", "7", false)) }, view{version: "6"}, false},
		"the cache shows a create":      {func(t *Tracker) { t.Wrote(owner, pod("a", "7", false)) }, view{version: "7"}, true},
		"longer numbers are greater":    {func(t *Tracker) { t.Wrote(owner, pod("a", "10", false)) }, view{version: "9"}, false},
		"an empty cache is behind":      {func(t *Tracker) { t.Wrote(owner, pod("a", "1", false)) }, view{}, false},
		"another owner does not matter": {func(t *Tracker) { t.Wrote("other", pod("a", "7", false)) }, view{version: "1"}, true},
		"the deleted pod is still there": {
			func(t *Tracker) { t.Deleted(owner, pod("a", "3", false)) },
			view{version: "9", pods: map[string]*corev1.Pod{"ns/p": pod("a", "3", false)}},
			false,
		},
		"the deleted pod is terminating": {
			func(t *Tracker) { t.Deleted(owner, pod("a", "3", false)) },
			view{version: "9", pods: map[string]*corev1.Pod{"ns/p": pod("a", "4", true)}},
			true,
		},
		"the deleted pod was replaced": {
			func(t *Tracker) { t.Deleted(owner, pod("a", "3", false)) },
			view{version: "9", pods: map[string]*corev1.Pod{"ns/p": pod("b", "8", false)}},
			true,
		},
		"a refused write leaves nothing open": {
			func(t *Tracker) { t.Failed(owner, apierrors.NewForbidden(schema.GroupResource{}, "p", nil)) }, view{version: "9"}, true,
		},
		"a write whose answer is lost": {func(t *Tracker) { t.Failed(owner, io.ErrUnexpectedEOF) }, view{version: "9"}, false},
		"it was carried out": {
			func(t *Tracker) {
				t.Failed(owner, io.ErrUnexpectedEOF)
				t.Found(owner, []metav1.Object{pod("a", "7", false)})
			},
			view{version: "6"},
			false,
		},
		"it was carried out and is shown": {
			func(t *Tracker) {
				t.Failed(owner, io.ErrUnexpectedEOF)
				t.Found(owner, []metav1.Object{pod("a", "7", false)})
			},
			view{version: "6", pods: map[string]*corev1.Pod{"ns/p": pod("a", "7", false)}},
			true,
		},
		"a deletion that was not carried out": {
			func(t *Tracker) {
				t.Deleted(owner, pod("a", "7", false))
				t.Failed(owner, apierrors.NewInternalError(io.ErrUnexpectedEOF))
				t.Found(owner, []metav1.Object{pod("a", "7", false)})
			},
			view{version: "9", pods: map[string]*corev1.Pod{"ns/p": pod("a", "7", false)}},
			true,
		},
		"the deleted pod is gone": {func(t *Tracker) { t.Deleted(owner, pod("a", "3", false)) }, view{version: "9"}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tracker := New(&tc.view)
			tc.record(tracker)
			if got := tracker.Satisfied(owner); got != tc.want {
				t.Errorf("Satisfied() = %v, want %v", got, tc.want)
			}
		})
	}
}
