package cri

import (
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UserNamespaces gives each pod that wants one its range of user IDs.
type UserNamespaces interface {
	Mapping(types.UID) (*runtimeapi.IDMapping, error)
}

// Node is what configurations need to know about the node. It is set up once.
type Node struct {
	RootDir        string // /var/lib/kubelet
	PodLogsRoot    string // /var/log/pods; empty: nothing is logged
	ClusterDNS     []string
	ClusterDomain  string
	ResolvConf     string
	MemoryCapacity int64
	CgroupV2       bool
	SwapAccounting bool
	Swap           int64 // bytes that the node has for pods
	NoCPUQuota     bool
	SeccompDefault bool
	AppArmor       bool
	UserNamespaces UserNamespaces           // nil: pods that ask for one are refused
	CgroupParent   func(*corev1.Pod) string // nil: the runtime's default
	// Place is where a container runs, as the kernel writes lists of CPUs and memory nodes: empty is anywhere. It has exclusive CPUs if nobody
	// else does. Exclusive reports whether some container of a pod has. Both may be nil.
	Place     func(pod types.UID, container string) (cpus, nodes string, exclusive bool)
	Exclusive func(pod types.UID) bool
}

// SandboxConfig describes the pod's environment.
func (n *Node) SandboxConfig(pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := n.DNSConfig(pod)
	if err != nil {
		return nil, err
	}
	security, err := n.sandboxSecurity(pod)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: PodLogDir(n.PodLogsRoot, pod),
		DnsConfig:    dns,
		Labels:       podLabels(pod),
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: security,
			Sysctls:         sysctls(pod),
			Overhead:        n.overhead(pod),
			Resources:       n.podResources(pod),
		},
	}
	if n.CgroupParent != nil {
		config.Linux.CgroupParent = n.CgroupParent(pod)
	}
	for key, value := range pod.Labels {
		if _, own := config.Labels[key]; !own {
			config.Labels[key] = value
		}
	}
	if pod.Spec.HostNetwork {
		return config, nil // the host's name and ports are its own
	}
	if config.Hostname, err = n.Hostname(pod); err != nil {
		return nil, err
	}
	config.PortMappings = portMappings(pod)
	return config, nil
}

// Hostname is what a pod with a network of its own calls itself.
func (n *Node) Hostname(pod *corev1.Pod) (string, error) {
	if pod.Spec.HostnameOverride != nil && *pod.Spec.HostnameOverride != "" {
		return *pod.Spec.HostnameOverride, nil
	}
	hostname := pod.Name
	if pod.Spec.Hostname != "" {
		hostname = pod.Spec.Hostname
	}
	if len(hostname) > validation.DNS1123LabelMaxLength {
		hostname = strings.TrimRight(hostname[:validation.DNS1123LabelMaxLength], "-.")
	}
	if !isTrue(pod.Spec.SetHostnameAsFQDN) || pod.Spec.Subdomain == "" {
		return hostname, nil
	}
	fqdn := fmt.Sprintf("%s.%s.%s.svc.%s", hostname, pod.Spec.Subdomain, pod.Namespace, n.ClusterDomain)
	if len(fqdn) > 64 { // the kernel's limit
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
	}
	return fqdn, nil
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return out
}

var protocols = map[corev1.Protocol]runtimeapi.Protocol{
	corev1.ProtocolTCP: runtimeapi.Protocol_TCP, corev1.ProtocolUDP: runtimeapi.Protocol_UDP, corev1.ProtocolSCTP: runtimeapi.Protocol_SCTP,
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, &runtimeapi.PortMapping{Protocol: protocols[p.Protocol], ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if IsSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

func (n *Node) overhead(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	if len(pod.Spec.Overhead) == 0 {
		return &runtimeapi.LinuxContainerResources{}
	}
	return n.limits(pod.Spec.Overhead, pod.Spec.Overhead)
}

// podResources are the sums that VM-based runtimes size their sandbox by.
func (n *Node) podResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	o := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	out := n.limits(resourcehelper.PodRequests(pod, o), resourcehelper.PodLimits(pod, o))
	if n.Exclusive != nil && n.Exclusive(pod.UID) {
		out.CpuQuota = -1
	}
	return out
}

func (n *Node) limits(requests, limits corev1.ResourceList) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{CpuShares: Shares(requests.Cpu().MilliValue()), MemoryLimitInBytes: limits.Memory().Value()}
	if !n.NoCPUQuota {
		out.CpuPeriod, out.CpuQuota = cfsPeriod, Quota(limits.Cpu().MilliValue())
	}
	return out
}

// Instance is everything about one start of a container that is not in its spec.
type Instance struct {
	Attempt     int           // restart count
	BackOff     time.Duration // to wait after this instance
	ImageRef    string
	ImageUser   ImageUser
	Command     []string
	Args        []string
	Envs        []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	CDIDevices  []string
	Annotations map[string]string // beside the agent's own
	TargetID    string            // whose process namespace an ephemeral container joins
	Handler     string            // runtime handler of the pod's RuntimeClass
	Resources   *runtimeapi.LinuxContainerResources
}

// UserMapping returns the ID mapping of the pod's user namespace, or nil if it has none.
func (n *Node) UserMapping(pod *corev1.Pod) ([]*runtimeapi.IDMapping, error) {
	namespaces, err := n.namespaces(pod)
	if err != nil {
		return nil, err
	}
	return namespaces.GetUsernsOptions().GetUids(), nil
}

// FQDN is the name under which a pod with a subdomain is found, or empty.
func (n *Node) FQDN(pod *corev1.Pod, hostname string) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	hostname, _, _ = strings.Cut(hostname, ".")
	return fmt.Sprintf("%s.%s.%s.svc.%s", hostname, pod.Spec.Subdomain, pod.Namespace, n.ClusterDomain)
}

// ContainerConfig describes one container instance. Its errors are the user's to fix: reason CreateContainerConfigError.
func (n *Node) ContainerConfig(pod *corev1.Pod, c *corev1.Container, in Instance) (*runtimeapi.ContainerConfig, error) {
	security, err := n.containerSecurity(pod, c, in.ImageUser, in.TargetID)
	if err != nil {
		return nil, err
	}
	resources := in.Resources
	if resources == nil {
		resources = n.Resources(pod, c)
	}
	annotations := containerAnnotations(pod, c, in.Attempt, in.BackOff)
	maps.Copy(annotations, in.Annotations)
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(in.Attempt)},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image, RuntimeHandler: in.Handler},
		Command:     in.Command,
		Args:        in.Args,
		WorkingDir:  c.WorkingDir,
		Envs:        in.Envs,
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		CDIDevices:  cdiDevices(in.CDIDevices),
		Labels:      containerLabels(pod, c),
		Annotations: annotations,
		LogPath:     logPath(c.Name, in.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux:       &runtimeapi.LinuxContainerConfig{Resources: resources, SecurityContext: security},
	}, nil
}

func cdiDevices(names []string) []*runtimeapi.CDIDevice {
	var out []*runtimeapi.CDIDevice
	for _, name := range names {
		out = append(out, &runtimeapi.CDIDevice{Name: name})
	}
	return out
}

// stopSignal names the CRI's signal: SIGRTMIN+1 is SIGNAL_SIGRTMINPLUS1 there.
func stopSignal(c *corev1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(*c.Lifecycle.StopSignal))
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

// SignalName is the API's name of a CRI signal, or nil for the runtime's default.
func SignalName(s runtimeapi.Signal) *corev1.Signal {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return nil
	}
	name := strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(strings.TrimPrefix(s.String(), "SIGNAL_"))
	signal := corev1.Signal(name)
	return &signal
}
