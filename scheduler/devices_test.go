package scheduler

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"keelson.dev/scheduler/plugins/noderesources"
)

func deviceSlice(node string, devices ...string) *resourceapi.ResourceSlice {
	s := &resourceapi.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-gpus"},
		Spec: resourceapi.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, ResourceSliceCount: 1},
		},
	}
	for _, name := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourceapi.Device{Name: name})
	}
	return s
}

func deviceClass(name string) *resourceapi.DeviceClass {
	return &resourceapi.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourceapi.DeviceClassSpec{Selectors: []resourceapi.DeviceSelector{{
			CEL: &resourceapi.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`},
		}}},
	}
}

func deviceClaim(name, class string) *resourceapi.ResourceClaim {
	return &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{{
			Name:    "gpu",
			Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 1},
		}}}},
	}
}

func withDevice(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "gpu"}}
	}
}

func TestDevices(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"), deviceClass("gpu"), deviceSlice("b", "gpu-0"),
		deviceClaim("one", "gpu"), deviceClaim("two", "gpu"), deviceClaim("odd", "nothing"))
	c.create(testPod("first", withDevice("one")))
	if got := c.nodeOf("first"); got != "b" {
		t.Errorf("the pod is on %s, want b, where the device is", got)
	}
	claim, err := c.client.ResourceV1().ResourceClaims("default").Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := claim.Status.Allocation; a == nil || len(a.Devices.Results) != 1 || a.Devices.Results[0].Device != "gpu-0" {
		t.Errorf("the claim's allocation is %v, want gpu-0", a)
	}
	if r := claim.Status.ReservedFor; len(r) != 1 || r[0].Name != "first" {
		t.Errorf("the claim is reserved for %v, want the pod", r)
	}
	if len(claim.Finalizers) != 1 {
		t.Errorf("an allocated claim has the finalizers %v, want one", claim.Finalizers)
	}

	const unhelpful = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	c.create(testPod("second", withDevice("two")))
	c.refused("second", "0/2 nodes are available: 2 cannot allocate all claims."+unhelpful)
	c.create(testPod("third", withDevice("odd")))
	c.refused("third", `0/2 nodes are available: request gpu: device class nothing does not exist.`+unhelpful)
	// A claim that is allocated can be shared, and takes the pod to its node.
	c.create(testPod("shares", withDevice("one")))
	c.nodeOf("shares")
	if _, err := c.client.ResourceV1().ResourceSlices().Create(t.Context(), deviceSlice("a", "gpu-1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.nodeOf("second"); got != "a" {
		t.Errorf("the pod is on %s, want a, where a device came up", got)
	}
}

func TestPodWaitsForItsClaim(t *testing.T) {
	c := startCluster(t, testNode("a"), deviceClass("gpu"), deviceSlice("a", "gpu-0"))
	c.create(testPod("early", withDevice("late")))
	c.create(testPod("other"))
	c.nodeOf("other")
	if _, err := c.client.ResourceV1().ResourceClaims("default").Create(t.Context(), deviceClaim("late", "gpu"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pod gets its device", func(ctx context.Context) (bool, error) {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, "early", metav1.GetOptions{})
		return err == nil && pod.Spec.NodeName == "a", err
	})
}

// named makes the API give names and uids to claims that a scheduler creates.
func (c *cluster) named() {
	c.client.PrependReactor("create", "resourceclaims", func(action clienttesting.Action) (bool, runtime.Object, error) {
		claim := action.(clienttesting.CreateAction).GetObject().(*resourceapi.ResourceClaim)
		if claim.Name == "" {
			claim.Name, claim.UID, claim.ResourceVersion = claim.GenerateName+"x", types.UID(claim.GenerateName), "1"
		}
		return false, nil, nil
	})
}

func asks(resources ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range resources {
			c := corev1.Container{Name: "of-" + strings.ReplaceAll(name, "/", "-")}
			c.Resources.Requests = corev1.ResourceList{corev1.ResourceName(name): resource.MustParse("1")}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
}

func TestExtendedResourcesFromDevices(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"), deviceSlice("b", "gpu-0", "gpu-1"))
	c.named()
	c.create(testPod("first", asks("example.com/gpu", "deviceclass.resource.kubernetes.io/gpu")))
	const unhelpful = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	c.refused("first", "0/2 nodes are available: 2 Insufficient deviceclass.resource.kubernetes.io/gpu, 2 Insufficient example.com/gpu."+unhelpful)
	class := deviceClass("gpu")
	class.Spec.ExtendedResourceName = new("example.com/gpu")
	if _, err := c.client.ResourceV1().DeviceClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.nodeOf("first"); got != "b" {
		t.Errorf("the pod is on %s, want b, where the devices are", got)
	}
	claim, err := c.client.ResourceV1().ResourceClaims("default").Get(t.Context(), "first-extended-resources-x", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := claim.Status.Allocation; a == nil || len(a.Devices.Results) != 2 || len(claim.Status.ReservedFor) != 1 || a.AllocationTimestamp == nil {
		t.Errorf("the claim's status is %v, want two devices and a reservation", claim.Status)
	}
	pod, err := c.client.CoreV1().Pods("default").Get(t.Context(), "first", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: claim.Name, RequestMappings: []corev1.ContainerExtendedResourceRequest{
		{ContainerName: "of-deviceclass.resource.kubernetes.io-gpu", ResourceName: "deviceclass.resource.kubernetes.io/gpu", RequestName: "container-2-request-0"},
		{ContainerName: "of-example.com-gpu", ResourceName: "example.com/gpu", RequestName: "container-1-request-0"},
	}}
	if diff := cmp.Diff(want, pod.Status.ExtendedResourceClaimStatus); diff != "" {
		t.Errorf("the pod's status (-want +got):\n%s", diff)
	}
	c.create(testPod("second", asks("example.com/gpu")))
	c.refused("second", "0/2 nodes are available: 2 cannot allocate all claims."+unhelpful)
	// A node whose device plugin offers the resource needs no claim.
	node := testNode("c")
	node.Status.Allocatable["example.com/gpu"] = resource.MustParse("1")
	if _, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.nodeOf("second"); got != "c" {
		t.Errorf("the pod is on %s, want c, where a device plugin offers the resource", got)
	}
	if pod, err := c.client.CoreV1().Pods("default").Get(t.Context(), "second", metav1.GetOptions{}); err != nil || pod.Status.ExtendedResourceClaimStatus != nil {
		t.Errorf("the pod has a claim besides its device: %v (%v)", pod.Status.ExtendedResourceClaimStatus, err)
	}
}

func TestBindingConditions(t *testing.T) {
	slice := deviceSlice("a", "gpu-0")
	slice.Spec.Devices[0].BindingConditions = []string{"attached"}
	slice.Spec.Devices[0].BindingFailureConditions = []string{"broken"}
	c := startCluster(t, testNode("a"), deviceClass("gpu"), slice, deviceClaim("one", "gpu"))
	report := func(condition string) {
		c.eventually("the claim has a device", func(ctx context.Context) (bool, error) {
			claim, err := c.client.ResourceV1().ResourceClaims("default").Get(ctx, "one", metav1.GetOptions{})
			if err != nil || claim.Status.Allocation == nil || len(claim.Status.Devices) > 0 {
				return false, err
			}
			claim.ResourceVersion += "0" // the fake API counts no versions
			claim.Status.Devices = []resourceapi.AllocatedDeviceStatus{{
				Driver: "gpu.example.com", Pool: "a", Device: "gpu-0", Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Tested"}},
			}}
			_, err = c.client.ResourceV1().ResourceClaims("default").UpdateStatus(ctx, claim, metav1.UpdateOptions{})
			return true, err
		})
	}
	c.create(testPod("first", withDevice("one")))
	report("broken") // the claim gives its device back and gets it once more
	c.eventually("the claim is allocated again", func(ctx context.Context) (bool, error) {
		claim, err := c.client.ResourceV1().ResourceClaims("default").Get(ctx, "one", metav1.GetOptions{})
		return err == nil && len(claim.Status.Devices) == 0, err
	})
	if pod, err := c.client.CoreV1().Pods("default").Get(t.Context(), "first", metav1.GetOptions{}); err != nil || pod.Spec.NodeName != "" {
		t.Fatalf("the pod is on %q before its device may be bound (%v)", pod.Spec.NodeName, err)
	}
	report("attached")
	c.nodeOf("first")
}

// A scoring strategy that names a resource weighs the devices that stand for it. The other plugins would have it the other way round.
func TestDevicesAreScored(t *testing.T) {
	for strategy, want := range map[configv1.ScoringStrategyType]string{configv1.MostAllocated: "a", configv1.LeastAllocated: "b"} {
		t.Run(string(strategy), func(t *testing.T) {
			class := deviceClass("gpu")
			class.Spec.ExtendedResourceName = new("example.com/gpu")
			taken := deviceClaim("taken", "gpu")
			taken.Status.Allocation = &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{
				Results: []resourceapi.DeviceRequestAllocationResult{{Request: "gpu", Driver: "gpu.example.com", Pool: "a", Device: "gpu-0"}},
			}}
			other := deviceSlice("b", "nic-0")
			other.Name, other.Spec.Driver = "b-nics", "nic.example.com" // no device of the class
			conf := &configv1.KubeSchedulerConfiguration{Profiles: []configv1.KubeSchedulerProfile{{
				Plugins: &configv1.Plugins{Score: configv1.PluginSet{Enabled: []configv1.Plugin{{Name: noderesources.FitName, Weight: new(int32(100))}}}},
				PluginConfig: []configv1.PluginConfig{{Name: noderesources.FitName, Args: runtime.RawExtension{Object: &configv1.NodeResourcesFitArgs{
					ScoringStrategy: &configv1.ScoringStrategy{
						Type: strategy, Resources: []configv1.ResourceSpec{{Name: "example.com/gpu", Weight: 1}},
					},
				}}}},
			}}}
			c := startConfigured(t, conf, testNode("a"), testNode("b"), testNode("c"), class, taken, other,
				deviceSlice("a", "gpu-0", "gpu-1", "gpu-2"), deviceSlice("b", "gpu-0", "gpu-1"))
			c.named()
			c.create(testPod("p", asks("example.com/gpu")))
			if got := c.nodeOf("p"); got != want {
				t.Errorf("the pod is on %s, want %s", got, want)
			}
		})
	}
}
