package resourceclaim

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlanClaim(t *testing.T) {
	a, b := resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "a", UID: "a"}, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "b", UID: "b"}
	type refs = []resourcev1.ResourceClaimConsumerReference
	cases := map[string]struct {
		reserved, valid refs
		allocated       bool
		held, deleting  bool
		wantStatus      bool
		wantAllocated   bool
		wantFree        bool
	}{
		"nothing to do":            {reserved: refs{a}, valid: refs{a}, allocated: true, held: true, wantAllocated: true},
		"one of two stopped":       {reserved: refs{a, b}, valid: refs{b}, allocated: true, held: true, wantStatus: true, wantAllocated: true},
		"the last one stopped":     {reserved: refs{a}, allocated: true, held: true, wantStatus: true, wantFree: true},
		"allocated by someone":     {reserved: refs{a}, allocated: true, wantStatus: true, wantAllocated: true},
		"allocated, not used yet":  {allocated: true, held: true, wantAllocated: true},
		"deleted while allocated":  {allocated: true, held: true, deleting: true, wantStatus: true, wantFree: true},
		"deleted, nothing to free": {held: true, deleting: true, wantFree: true},
		"deleted while in use":     {reserved: refs{a}, valid: refs{a}, allocated: true, held: true, deleting: true, wantAllocated: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			claim := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{ReservedFor: tc.reserved}}
			if tc.allocated {
				claim.Status.Allocation = &resourcev1.AllocationResult{}
			}
			if tc.held {
				claim.Finalizers = []string{resourcev1.Finalizer}
			}
			if tc.deleting {
				claim.DeletionTimestamp = &metav1.Time{}
			}
			plan := planClaim(claim, tc.valid)
			if (plan.status != nil) != tc.wantStatus || plan.free != tc.wantFree {
				t.Fatalf("status %v, free %v", plan.status, plan.free)
			}
			status := &claim.Status
			if plan.status != nil {
				status = plan.status
			}
			if (status.Allocation != nil) != tc.wantAllocated {
				t.Errorf("allocation = %v", status.Allocation)
			}
			if diff := cmp.Diff(tc.valid, status.ReservedFor); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClaimStatuses(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{
		{Name: "gpu", ResourceClaimTemplateName: new("t")}, {Name: "shared", ResourceClaimName: new("s")},
	}}}
	statuses, changed := claimStatuses(pod, map[string]string{"gpu": "p-gpu-x"})
	if diff := cmp.Diff([]corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: new("p-gpu-x")}}, statuses); diff != "" || !changed {
		t.Errorf("changed %v: %s", changed, diff)
	}
	pod.Status.ResourceClaimStatuses = statuses
	if _, changed := claimStatuses(pod, map[string]string{"gpu": "p-gpu-x"}); changed {
		t.Error("a status that is up to date counts as changed")
	}
}
