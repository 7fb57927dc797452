package volumeexpansion

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestWantsMore(t *testing.T) {
	cases := map[string]struct {
		phase      corev1.PersistentVolumeClaimPhase
		asked, has string
		want       bool
	}{
		"more":      {corev1.ClaimBound, "2Gi", "1Gi", true},
		"has it":    {corev1.ClaimBound, "1Gi", "1Gi", false},
		"got more":  {corev1.ClaimBound, "1Gi", "2Gi", false},
		"not bound": {corev1.ClaimPending, "2Gi", "1Gi", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			claim := &corev1.PersistentVolumeClaim{
				Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(tc.asked)}}},
				Status: corev1.PersistentVolumeClaimStatus{Phase: tc.phase, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(tc.has)}},
			}
			if got := wantsMore(claim); got != tc.want {
				t.Errorf("wantsMore = %v, want %v", got, tc.want)
			}
		})
	}
}
