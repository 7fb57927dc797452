package volumeprotection

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNamed(t *testing.T) {
	cases := map[string]struct {
		claim  corev1.PersistentVolumeClaim
		volume corev1.PersistentVolume
		want   bool
	}{
		"nobody":     {},
		"another":    {claim: corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: new("silver")}}},
		"asked for":  {claim: corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: new("gold")}}, want: true},
		"had":        {claim: corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: new("gold")}}, want: true},
		"changed to": {claim: corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "gold"}}}, want: true},
		"by volume":  {volume: corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: new("gold")}}, want: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := named("gold", []*corev1.PersistentVolumeClaim{&tc.claim}, []*corev1.PersistentVolume{&tc.volume}); got != tc.want {
				t.Errorf("named = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestUses(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	direct := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}
	cases := map[string]struct {
		node   string
		phase  corev1.PodPhase
		volume corev1.Volume
		want   bool
	}{
		"running":         {"n", corev1.PodRunning, direct, true},
		"never scheduled": {"", corev1.PodPending, direct, false},
		"stopped":         {"n", corev1.PodSucceeded, direct, false},
		"another claim":   {"n", corev1.PodRunning, corev1.Volume{Name: "v"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: tc.node, Volumes: []corev1.Volume{tc.volume}}, Status: corev1.PodStatus{Phase: tc.phase}}
			if got := uses(pod, claim); got != tc.want {
				t.Errorf("uses = %v, want %v", got, tc.want)
			}
		})
	}
}
