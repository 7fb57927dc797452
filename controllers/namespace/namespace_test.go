package namespace

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

func TestConditions(t *testing.T) {
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	cases := map[string]struct {
		contents contents
		want     map[corev1.NamespaceConditionType]string // the reasons of conditions that are true
	}{
		"empty": {contents{}, map[corev1.NamespaceConditionType]string{}},
		"a server is away": {
			contents{discovery: &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "g", Version: "v1"}: errors.New("away")}}},
			map[corev1.NamespaceConditionType]string{corev1.NamespaceDeletionDiscoveryFailure: "DiscoveryFailed"},
		},
		"deletion fails": {
			contents{failures: []error{errors.New("no")}},
			map[corev1.NamespaceConditionType]string{corev1.NamespaceDeletionContentFailure: "ContentDeletionFailed"},
		},
		"a finalizer holds a pod": {
			contents{remaining: map[schema.GroupVersionResource]int{pods: 1}, finalizers: map[string]int{"a/b": 1}},
			map[corev1.NamespaceConditionType]string{corev1.NamespaceContentRemaining: "SomeResourcesRemain", corev1.NamespaceFinalizersRemaining: "SomeFinalizersRemain"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[corev1.NamespaceConditionType]string{}
			for _, c := range conditionsOf(&tc.contents) {
				if c.Status == corev1.ConditionTrue {
					got[c.Type] = c.Reason
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMergeKeepsTransitionTimes(t *testing.T) {
	before, now := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	old := []corev1.NamespaceCondition{{Type: "A", Status: "True", LastTransitionTime: before}, {Type: "B", Status: "True", LastTransitionTime: before}, {Type: "Other", Status: "True", LastTransitionTime: before}}
	got := merge(old, []corev1.NamespaceCondition{{Type: "A", Status: "True", Reason: "still"}, {Type: "B", Status: "False"}, {Type: "C", Status: "False"}}, now)
	want := []corev1.NamespaceCondition{
		{Type: "A", Status: "True", Reason: "still", LastTransitionTime: before},
		{Type: "B", Status: "False", LastTransitionTime: now},
		{Type: "Other", Status: "True", LastTransitionTime: before},
		{Type: "C", Status: "False", LastTransitionTime: now},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
