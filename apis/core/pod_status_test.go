package core

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestStatusKeepsWhatOlderClientsLeaveOut(t *testing.T) {
	claims := []corev1.PodResourceClaimStatus{{Name: "a"}}
	old := corev1.PodStatus{ObservedGeneration: 3, ResourceClaimStatuses: claims, Conditions: []corev1.PodCondition{
		{Type: "a", ObservedGeneration: 1}, {Type: "b", ObservedGeneration: 2}, {Type: "a", ObservedGeneration: 3},
	}}
	got := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "a"}, {Type: "a"}, {Type: "b", ObservedGeneration: 9}, {Type: "c"}}}
	keepUnknownStatus(&got, &old)
	want := corev1.PodStatus{ObservedGeneration: 3, ResourceClaimStatuses: claims, Conditions: []corev1.PodCondition{
		{Type: "a", ObservedGeneration: 1}, {Type: "a", ObservedGeneration: 3}, {Type: "b", ObservedGeneration: 9}, {Type: "c"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	cleared := corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{}}
	keepUnknownStatus(&cleared, &old)
	if len(cleared.ResourceClaimStatuses) != 0 {
		t.Errorf("an empty list does not clear: %v", cleared.ResourceClaimStatuses)
	}
}
