package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/scheduler/nodeinfo"
)

// What is cached of a pod on a node counts there as the whole pod does.
func TestTrim(t *testing.T) {
	full := perfPod("p", hostPort("", 80, corev1.ProtocolTCP))
	c := &full.Spec.Containers[0]
	c.Env, c.Command = []corev1.EnvVar{{Name: "A", Value: "b"}}, []string{"run"}
	full.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	full.Spec.Volumes = []corev1.Volume{
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
	}
	full.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", ImageID: "i", Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}},
	}}
	for _, ours := range []bool{true, false} {
		for _, node := range []string{"", "a"} {
			pod := full.DeepCopy()
			pod.Spec.NodeName = node
			before := info(t, pod.DeepCopy())
			if _, err := trimFor(ours)(pod); err != nil {
				t.Fatal(err)
			}
			trimmed := pod.Spec.Containers[0].Env == nil && len(pod.Spec.Volumes) == 1 && pod.Status.ContainerStatuses[0].ImageID == ""
			if want := ours && node != ""; trimmed != want || pod.ManagedFields != nil {
				t.Errorf("only our plugins: %t, on node %q: trimmed %t, want %t", ours, node, trimmed, want)
			}
			if !before.CountsAs(info(t, pod)) || len(nodeinfo.HostPorts(pod)) != 1 || len(nodeinfo.ClaimKeys(pod)) != 1 {
				t.Errorf("only our plugins: %t, on node %q: it counts differently: %+v", ours, node, pod)
			}
		}
	}
}
