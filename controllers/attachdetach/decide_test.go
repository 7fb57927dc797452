package attachdetach

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Unix(100000, 0)

func TestDecide(t *testing.T) {
	type want struct {
		Attach, Blocked, Detach int
		Attached                []string
		Again                   time.Duration
	}
	volume := func(modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			AccessModes:            modes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}},
		}}
	}
	node := func(ready corev1.ConditionStatus, inUse ...corev1.UniqueVolumeName) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{managedAnnotation: "true"}},
			Status:     corev1.NodeStatus{VolumesInUse: inUse, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
		}
	}
	att := func(attached bool) []attachment {
		return []attachment{{device: "kubernetes.io/csi/d^h", VolumeAttachment: &storagev1.VolumeAttachment{
			ObjectMeta: metav1.ObjectMeta{Name: "a"},
			Spec:       storagev1.VolumeAttachmentSpec{NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: new("pv")}},
			Status:     storagev1.VolumeAttachmentStatus{Attached: attached},
		}}}
	}
	const device = "kubernetes.io/csi/d^h"
	once := []wantedVolume{{volume: volume(corev1.ReadWriteOnce)}}
	since := func(ago time.Duration) map[string]time.Time { return map[string]time.Time{"a": now.Add(-ago)} }
	elsewhere := map[string][]string{"pv": {"other"}}
	cases := map[string]struct {
		state nodeState
		want  want
	}{
		"new pod":                        {nodeState{node: node("True"), wanted: once}, want{Attach: 1}},
		"two pods, one volume":           {nodeState{node: node("True"), wanted: append(once, once...)}, want{Attach: 1}},
		"being attached":                 {nodeState{node: node("True"), wanted: once, attachments: att(false)}, want{}},
		"attached":                       {nodeState{node: node("True"), wanted: once, attachments: att(true)}, want{Attached: []string{device}}},
		"elsewhere, exclusive":           {nodeState{node: node("True"), wanted: once, volumeNodes: elsewhere}, want{Blocked: 1}},
		"elsewhere, shared":              {nodeState{node: node("True"), wanted: []wantedVolume{{volume: volume(corev1.ReadWriteMany)}}, volumeNodes: elsewhere}, want{Attach: 1}},
		"pod gone, still mounted":        {nodeState{node: node("True", device), attachments: att(true), unusedSince: since(time.Hour)}, want{Attached: []string{device}}},
		"pod gone, unmounted":            {nodeState{node: node("True"), attachments: att(true), unusedSince: since(0)}, want{Detach: 1}},
		"silent node, mounted":           {nodeState{node: node("Unknown", device), attachments: att(true), unusedSince: since(time.Minute)}, want{Attached: []string{device}, Again: 5 * time.Minute}},
		"silent node for too long":       {nodeState{node: node("Unknown", device), attachments: att(true), unusedSince: since(6 * time.Minute)}, want{Detach: 1}},
		"node gone":                      {nodeState{attachments: att(true), unusedSince: since(0)}, want{Detach: 1}},
		"node attaches on its own":       {nodeState{node: &corev1.Node{}, wanted: once}, want{}},
		"silent node keeps what it uses": {nodeState{node: node("Unknown", device), wanted: once, attachments: att(true)}, want{Attached: []string{device}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := decide(tc.state, now)
			got := want{Attach: len(p.attach), Blocked: len(p.blocked), Detach: len(p.detach), Again: p.again}
			for _, a := range p.attached {
				got.Attached = append(got.Attached, string(a.Name))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
