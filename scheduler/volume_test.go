package scheduler

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func claim(name, class string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

func localVolume(name, class, node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
}

func withClaim(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
}

// bindClaim does the volume controller's part: it makes the claim bound.
func (c *cluster) bindClaim(name, volumeName string) {
	c.t.Helper()
	claims := c.client.CoreV1().PersistentVolumeClaims("default")
	got, err := claims.Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	got = got.DeepCopy()
	got.Spec.VolumeName = volumeName
	got.ResourceVersion = "9"
	metav1.SetMetaDataAnnotation(&got.ObjectMeta, volume.AnnBindCompleted, "yes")
	got.Status.Phase = corev1.ClaimBound
	if _, err := claims.Update(c.t.Context(), got, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func TestClaimMustBeBoundOrWait(t *testing.T) {
	c := startCluster(t, testNode("a"), storageClass("now", "example.com/csi", storagev1.VolumeBindingImmediate), claim("data", "now"))
	c.create(testPod("early", withClaim("data")))
	c.refused("early", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	c.create(testPod("lost", withClaim("nothing")))
	c.refused("lost", `0/1 nodes are available: persistentvolumeclaim "nothing" not found. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.`)
	if _, err := c.client.CoreV1().PersistentVolumes().Create(t.Context(), localVolume("pv", "now", "a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bindClaim("data", "pv")
	c.nodeOf("early")
}

func TestFirstConsumerTakesAVolumeOfItsNode(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"),
		storageClass("local", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer),
		claim("data", "local"), claim("more", "local"), localVolume("pv-b", "local", "b"))
	c.create(testPod("first", withClaim("data")))
	c.eventually("the volume is claimed", func(ctx context.Context) (bool, error) {
		pv, err := c.client.CoreV1().PersistentVolumes().Get(ctx, "pv-b", metav1.GetOptions{})
		return err == nil && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Name == "data", err
	})
	c.create(testPod("second", withClaim("more")))
	c.refused("second", "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	c.bindClaim("data", "pv-b")
	if got := c.nodeOf("first"); got != "b" {
		t.Errorf("the pod is on %s, want b, where the volume is", got)
	}
}

func TestFirstConsumerAsksTheProvisioner(t *testing.T) {
	c := startCluster(t, testNode("a"), storageClass("csi", "example.com/csi", storagev1.VolumeBindingWaitForFirstConsumer), claim("data", "csi"))
	c.create(testPod("first", withClaim("data")))
	c.eventually("the claim names the node", func(ctx context.Context) (bool, error) {
		got, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", metav1.GetOptions{})
		return err == nil && got.Annotations[volume.AnnSelectedNode] == "a", err
	})
	pod, err := c.client.CoreV1().Pods("default").Get(t.Context(), "first", metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != "" {
		t.Fatalf("the pod is bound to %q before its volume is there (%v)", pod.Spec.NodeName, err)
	}
	if _, err := c.client.CoreV1().PersistentVolumes().Create(t.Context(), localVolume("made", "csi", "a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bindClaim("data", "made")
	c.nodeOf("first")
}

// TestStorageCapacityIsScored prefers what the claim leaves emptiest: the volume it takes, or the storage that one is made of.
func TestStorageCapacityIsScored(t *testing.T) {
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "example.com/csi"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: new(true)}}
	room := func(node, size string) *storagev1.CSIStorageCapacity {
		return &storagev1.CSIStorageCapacity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: node}, StorageClassName: "csi", Capacity: new(resource.MustParse(size)),
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: node}},
		}
	}
	large := localVolume("pv-a", "local", "a")
	large.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("100Gi")
	for class, want := range map[string]string{"csi": "b", "local": "a"} {
		t.Run(class, func(t *testing.T) {
			c := startCluster(t, testNode("a"), testNode("b"), driver, room("a", "2Gi"), room("b", "100Gi"), large.DeepCopy(), localVolume("pv-b", "local", "b"),
				storageClass("csi", driver.Name, storagev1.VolumeBindingWaitForFirstConsumer),
				storageClass("local", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), claim("data", class))
			c.create(testPod("p", withClaim("data")))
			c.eventually("the pod is announced", func(ctx context.Context) (bool, error) {
				got, err := c.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
				return err == nil && got.Status.NominatedNodeName == want, err
			})
		})
	}
}

// TestMissingDriverRefuses keeps pods off nodes without a driver that asks for it.
func TestMissingDriverRefuses(t *testing.T) {
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "example.com/csi"}, Spec: storagev1.CSIDriverSpec{PreventPodSchedulingIfMissing: new(true)}}
	c := startCluster(t, testNode("a"), driver, storageClass("csi", driver.Name, storagev1.VolumeBindingWaitForFirstConsumer), claim("data", "csi"))
	c.create(testPod("p", withClaim("data")))
	c.refused("p", "0/1 nodes are available: 1 example.com/csi CSI driver is not installed on the node. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	node := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driver.Name, NodeID: "a"}}}}
	if _, err := c.client.StorageV1().CSINodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pod is announced", func(ctx context.Context) (bool, error) {
		got, err := c.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
		return err == nil && got.Status.NominatedNodeName == "a", err
	})
}
