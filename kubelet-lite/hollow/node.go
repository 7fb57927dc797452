package hollow

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/admit"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/cri/pretend"
	"keelson.dev/kubelet-lite/hooks"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/nodestatus"
	"keelson.dev/kubelet-lite/podplan"
	"keelson.dev/kubelet-lite/podstatus"
	"keelson.dev/kubelet-lite/podworker"
	"keelson.dev/kubelet-lite/probes"
	"keelson.dev/kubelet-lite/volumes"
)

// node is one hollow node.
type node struct {
	fleet    *fleet
	name     string
	address  string
	status   *nodestatus.Manager
	workers  *podworker.Manager
	recorder record.EventRecorder

	mu       sync.Mutex
	pods     map[types.UID]*corev1.Pod
	rejected map[types.UID]bool
}

func (f *fleet) newNode(ctx context.Context, index int) (*node, error) {
	n := &node{fleet: f, name: Name(f.cfg.Fleet, index), pods: map[types.UID]*corev1.Pod{}, rejected: map[types.UID]bool{}}
	address, err := part(f.cfg.NodeCIDR, f.cfg.NodeCIDR.Addr().BitLen(), index+1)
	if err != nil {
		return nil, fmt.Errorf("address of node %s: %w", n.name, err)
	}
	n.address = address.Addr().String()
	podCIDR := ""
	if f.cfg.PodCIDR.IsValid() {
		// The first two of a range and its last are no pod's.
		size := bits.Len64(uint64(f.cfg.Capacity.Pods().Value() + 2))
		pods, err := part(f.cfg.PodCIDR, f.cfg.PodCIDR.Addr().BitLen()-size, index)
		if err != nil {
			return nil, fmt.Errorf("pod range of node %s: %w", n.name, err)
		}
		podCIDR = pods.String()
	}
	n.recorder = f.broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: n.name})
	runtime := &cri.Client{
		Runtime: pretend.New(pretend.Config{Range: n.podRange, Clock: f.clock, Changed: func(uid types.UID) { n.workers.Wake(uid) }}),
		Images:  pretend.NewImages(),
	}
	n.status = nodestatus.New(nodestatus.Config{
		Client: f.client, Runtime: runtime, Clock: f.clock, NodeName: n.name, Labels: f.labels(n.name, index), Taints: f.cfg.Taints,
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.address}, {Type: corev1.NodeHostName, Address: n.name}},
		Capacity:  f.cfg.Capacity, Allocatable: f.cfg.Capacity, Info: info(n.name), KubeletPort: 10250, LeaseSeconds: f.cfg.LeaseSeconds,
		CheckPeriod: checkPeriod, PodCIDR: podCIDR, InUse: func() []corev1.UniqueVolumeName { return nil }, Pressure: noPressure,
		Extra: func() (corev1.ResourceList, corev1.ResourceList) { return nil, nil },
	})
	n.workers = podworker.New(as(ctx, n.name), podworker.Config{
		Runtime: runtime, Node: &cri.Node{ClusterDomain: "cluster.local", CgroupV2: true, AppArmor: true}, IDPrefix: "hollow://",
		Images:  images.New(images.Config{Images: runtime.Images, Secrets: nothing{}, Recorder: n.recorder, Clock: f.clock, Parallel: 1}),
		Volumes: nothing{}, Cgroups: nothing{}, Status: f.status, Recorder: n.recorder, Clock: f.clock,
		Probes: probes.New(probes.Config{Exec: runtime.Runtime, Recorder: n.recorder, Clock: f.clock, Changed: func(types.UID) {}}),
		Hooks:  &hooks.Runner{Exec: runtime.Runtime, Clock: f.clock}, HostIPs: func() []string { return []string{n.address} },
		Env: func(context.Context, *corev1.Pod, *corev1.Container, []string) ([]*runtimeapi.KeyValue, error) {
			return nil, nil
		},
		RuntimeHandler:    func(context.Context, *corev1.Pod) (string, error) { return "", nil },
		RecursiveReadOnly: func(string) bool { return true }, Grant: n.grant,
		Mirror: func(pod *corev1.Pod) *corev1.Pod { return pod }, Stopped: func(*corev1.Pod) { n.workers.PokeAll() },
	})
	return n, nil
}

func noPressure(corev1.NodeConditionType) bool { return false }

// podRange is where the node's pods get addresses.
func (n *node) podRange() (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(n.status.Node().Spec.PodCIDR)
	return prefix, err == nil
}

func (f *fleet) labels(name string, index int) map[string]string {
	real := nodestatus.Info("", "")
	out := map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: real.OperatingSystem, corev1.LabelArchStable: real.Architecture,
		"beta.kubernetes.io/os": real.OperatingSystem, "beta.kubernetes.io/arch": real.Architecture,
		Label: "true", FleetLabel: f.cfg.Fleet,
	}
	if f.cfg.Zones > 0 {
		out[corev1.LabelTopologyZone] = fmt.Sprintf("zone-%d", index%f.cfg.Zones+1)
	}
	maps.Copy(out, f.cfg.Labels)
	return out
}

// info is what the node is: this machine's system, with an identity of its own.
func info(name string) corev1.NodeSystemInfo {
	out := nodestatus.Info(nodestatus.Version, "hollow://1.0")
	id := uuid.NewSHA1(uuid.NameSpaceDNS, []byte(name)).String()
	out.MachineID, out.SystemUUID, out.OSImage = id, id, "Keelson hollow node"
	return out
}

// changed takes a pod that is bound to the node, made by bare.
func (n *node) changed(ctx context.Context, pod *corev1.Pod) {
	n.mu.Lock()
	known := n.pods[pod.UID] != nil
	n.pods[pod.UID] = pod
	n.mu.Unlock()
	n.fleet.status.Observe(pod)
	over := pod.DeletionTimestamp != nil || podplan.IsTerminal(pod.Status.Phase)
	if !known && !over {
		if r := admit.Check(admit.Input{Pod: pod, Node: n.status.Node(), Active: n.active(pod.UID), AppArmor: true, Pressure: noPressure, UnsafeSysctls: []string{"*"}}); r != nil {
			klog.FromContext(ctx).V(1).Info("Pod rejected", "pod", klog.KObj(pod), "node", n.name, "reason", r.Reason)
			n.recorder.Event(cri.ContainerReference(pod, ""), corev1.EventTypeWarning, r.Reason, r.Message)
			n.mu.Lock()
			n.rejected[pod.UID] = true
			n.mu.Unlock()
			n.fleet.status.Set(pod, podstatus.Rejected(pod, r.Reason, r.Message, n.fleet.clock.Now()))
			return
		}
	}
	n.mu.Lock()
	waiting := n.rejected[pod.UID] && !over
	n.mu.Unlock()
	if !waiting {
		n.workers.Update(pod)
	}
}

func (n *node) deleted(uid types.UID) {
	n.mu.Lock()
	delete(n.pods, uid)
	delete(n.rejected, uid)
	n.mu.Unlock()
	n.fleet.status.Forget(uid)
	n.workers.Removed(uid)
}

// active are the pods other than one that hold resources of the node.
func (n *node) active(except types.UID) []*corev1.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*corev1.Pod
	for uid, pod := range n.pods {
		if uid != except && !n.rejected[uid] && n.workers.Active(uid) {
			out = append(out, pod)
		}
	}
	return out
}

// grant decides on a resize.
func (n *node) grant(pod *corev1.Pod) (reason, message string) {
	if ok, message := admit.Feasible(pod, n.status.Node()); !ok {
		return corev1.PodReasonInfeasible, message
	}
	if r := admit.Fits(admit.Input{Pod: pod, Node: n.status.Node(), Active: n.active(pod.UID)}); r != nil {
		return corev1.PodReasonDeferred, r.Message
	}
	return "", ""
}

// bare is a pod without what a hollow node cannot do: its probes and hooks would ask where nobody answers, and what surrounds its
// containers would only take memory.
func bare(pod *corev1.Pod) *corev1.Pod {
	out := *pod
	s := &out.Spec
	out.ManagedFields, s.Volumes, s.SecurityContext, s.HostUsers, s.EphemeralContainers = nil, nil, nil, nil, nil
	for _, list := range []*[]corev1.Container{&s.InitContainers, &s.Containers} {
		*list = slices.Clone(*list)
		for i := range *list {
			c := &(*list)[i]
			*c = corev1.Container{
				Name: c.Name, Image: c.Image, ImagePullPolicy: c.ImagePullPolicy, Ports: c.Ports, Resources: c.Resources, ResizePolicy: c.ResizePolicy,
				RestartPolicy: c.RestartPolicy, RestartPolicyRules: c.RestartPolicyRules,
			}
		}
	}
	return &out
}

// nothing stands for what a hollow node has none of.
type nothing struct{}

func (nothing) SetUp(context.Context, *corev1.Pod) error  { return nil }
func (nothing) TearDown(context.Context, types.UID) error { return nil }
func (nothing) Refresh(context.Context, *corev1.Pod)      {}
func (nothing) EnsurePod(*corev1.Pod) error               { return nil }
func (nothing) UpdatePod(*corev1.Pod) error               { return nil }
func (nothing) RemovePod(types.UID) error                 { return nil }

func (nothing) ContainerMounts(*corev1.Pod, *corev1.Container, volumes.MountEnv) ([]*runtimeapi.Mount, []*runtimeapi.Device, error) {
	return nil, nil, nil
}

func (nothing) Secret(context.Context, string, string) (*corev1.Secret, error) {
	return &corev1.Secret{}, nil // a pretended registry lets anybody in
}
