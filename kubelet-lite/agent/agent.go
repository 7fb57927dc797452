// Package agent is the node's agent as a whole: it builds the parts, tells each where to find the others, and runs them.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/internal/apiclient"
	"keelson.dev/kubelet-lite/certs"
	"keelson.dev/kubelet-lite/cgroups"
	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/devices"
	"keelson.dev/kubelet-lite/dra"
	"keelson.dev/kubelet-lite/eviction"
	"keelson.dev/kubelet-lite/hooks"
	"keelson.dev/kubelet-lite/images"
	"keelson.dev/kubelet-lite/logs"
	"keelson.dev/kubelet-lite/metrics"
	"keelson.dev/kubelet-lite/nodestatus"
	"keelson.dev/kubelet-lite/objects"
	"keelson.dev/kubelet-lite/plugins"
	"keelson.dev/kubelet-lite/podresources"
	"keelson.dev/kubelet-lite/podworker"
	"keelson.dev/kubelet-lite/probes"
	"keelson.dev/kubelet-lite/server"
	"keelson.dev/kubelet-lite/shutdown"
	"keelson.dev/kubelet-lite/stats"
	"keelson.dev/kubelet-lite/statusmanager"
	"keelson.dev/kubelet-lite/topology"
	"keelson.dev/kubelet-lite/volumes"
)

const component = "kubelet-lite"

// agent holds the parts. All are built before any runs.
type agent struct {
	cfg     Config
	clock   clock.WithTicker
	client  kubernetes.Interface
	runtime *cri.Client
	prefix  string // of container IDs
	nodeIPs []string

	sources    *sources
	cgroups    *cgroups.Manager
	objects    *objects.Cache
	volumes    *volumes.Manager
	claims     *dra.Manager
	devices    *devices.Manager
	topology   *topology.Manager
	images     *images.Manager
	probes     *probes.Manager
	status     *statusmanager.Manager
	workers    *podworker.Manager
	node       *nodestatus.Manager
	stats      *stats.Provider
	collector  *images.Collector
	eviction   *eviction.Manager
	shutdown   *shutdown.Manager
	recorder   record.EventRecorder
	broadcast  record.EventBroadcaster
	serving    func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	allocation corev1.ResourceList
	swap       int64 // bytes that pods may use
	userns     *cri.UserNamespaceRanges

	mu          sync.Mutex
	api         map[types.UID]*corev1.Pod // from the API server, mirrors left out
	static      map[types.UID]*corev1.Pod
	mirrors     map[types.NamespacedName]*corev1.Pod
	preexisting map[types.UID]*cri.Pod // found in the runtime at the start
	rejected    map[types.UID]bool
	awaiting    map[types.UID]func() // critical pods that others end for, and what admits them

	admitting sync.Mutex // what one pod is given counts for the next
}

// Run runs an agent until ctx ends. Containers keep running after that, unless package shutdown takes it for the end of the machine:
// then Run returns when they have ended.
func Run(ctx context.Context, cfg Config) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName(component))
	metrics.Register()
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var running atomic.Pointer[agent]
	stop := context.AfterFunc(ctx, func() {
		defer end()
		if a := running.Load(); a != nil && a.shutdown.Terminated() {
			a.shutdown.End(parts)
		}
	})
	defer stop()
	a, err := build(parts, cfg)
	if err != nil {
		return err
	}
	running.Store(a)
	return a.run(parts)
}

func build(ctx context.Context, cfg Config) (*agent, error) {
	a := &agent{
		cfg: cfg, clock: clock.RealClock{}, api: map[types.UID]*corev1.Pod{}, static: map[types.UID]*corev1.Pod{},
		mirrors: map[types.NamespacedName]*corev1.Pod{}, rejected: map[types.UID]bool{}, awaiting: map[types.UID]func(){},
	}
	for _, step := range []func(context.Context) error{
		a.makeDirectories, a.connectRuntime, a.connectAPI, a.measureNode, a.makeServing, a.makePods, a.makeReclaim, a.findPods,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// legacyLogDir is where log collectors look for container logs.
const legacyLogDir = "/var/log/containers"

func (a *agent) makeDirectories(context.Context) error {
	for dir, mode := range map[string]os.FileMode{
		a.cfg.RootDir: 0o750, filepath.Join(a.cfg.RootDir, "pods"): 0o750,
		filepath.Join(a.cfg.RootDir, "seccomp"): 0o755, a.cfg.Kubelet.PodLogsDir: 0o755, legacyLogDir: 0o755,
	} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	return nil
}

// connectRetry is how often a runtime is looked for that has not come up yet.
const connectRetry = 100 * time.Millisecond

func (a *agent) connectRuntime(ctx context.Context) (err error) {
	k := &a.cfg.Kubelet
	for first := true; ; first = false {
		if a.runtime, err = cri.Dial(ctx, k.ContainerRuntimeEndpoint, k.ImageServiceEndpoint); err == nil {
			a.prefix, err = a.runtime.ContainerIDPrefix(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if first {
			klog.FromContext(ctx).Info("Waiting for the container runtime", "endpoint", k.ContainerRuntimeEndpoint, "err", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-a.clock.After(connectRetry):
		}
	}
}

func (a *agent) connectAPI(ctx context.Context) error {
	config, err := a.restConfig(ctx)
	if err != nil {
		return err
	}
	if a.client, err = apiclient.Clientset(config); err != nil {
		return err
	}
	if a.cfg.Joined != nil {
		a.cfg.Joined(config)
	}
	if a.nodeIPs = a.cfg.NodeIPs; len(a.nodeIPs) == 0 {
		ip, err := outgoingIP(ctx, config.Host)
		if err != nil {
			return err
		}
		a.nodeIPs = []string{ip}
	}
	a.broadcast = record.NewBroadcaster(record.WithContext(ctx))
	a.recorder = a.broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})
	return nil
}

func (a *agent) restConfig(ctx context.Context) (*rest.Config, error) {
	if a.cfg.RESTConfig != nil {
		return apiclient.Config(a.cfg.RESTConfig, component), nil
	}
	if _, err := os.Stat(a.cfg.Kubeconfig); err == nil {
		return a.read(a.cfg.Kubeconfig)
	}
	if a.cfg.BootstrapKubeconfig == "" {
		return nil, errors.New("neither a kubeconfig nor a bootstrap kubeconfig is given")
	}
	bootstrap, err := a.read(a.cfg.BootstrapKubeconfig)
	if err != nil {
		return nil, err
	}
	return certs.Client(ctx, certs.Config{NodeName: a.cfg.NodeName, Dir: a.cfg.CertDir, Bootstrap: bootstrap, Clock: a.clock}, bootstrap)
}

func (a *agent) read(kubeconfig string) (*rest.Config, error) {
	config, err := apiclient.FromKubeconfig(kubeconfig, component)
	if err == nil && a.cfg.Reach != nil {
		a.cfg.Reach(config)
	}
	return config, err
}

// outgoingIP is the address that this machine would speak to the API server from. Nothing is sent.
func outgoingIP(ctx context.Context, server string) (string, error) {
	host := server
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		host = u.Hostname()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(host, "443"))
	if err != nil {
		return "", fmt.Errorf("find this node's address: %w", err)
	}
	defer conn.Close()
	ip, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return ip, err
}

// measureNode finds out what the node has to give, and makes the control groups that enforce it.
func (a *agent) measureNode(ctx context.Context) error {
	k := &a.cfg.Kubelet
	capacity, err := nodestatus.Machine(a.cfg.RootDir, int64(k.MaxPods))
	if err != nil {
		return err
	}
	if a.swap, err = swapFor(k); err != nil {
		return err
	}
	if err := reserveCPUs(k); err != nil {
		return err
	}
	if a.allocation, err = allocatable(capacity, k.KubeReserved, k.SystemReserved, k.EvictionHard); err != nil {
		return err
	}
	a.cgroups, err = cgroups.New(cgroups.Config{
		Root: k.CgroupRoot, Systemd: a.runtime.CgroupDriver(ctx) == runtimeapi.CgroupDriver_SYSTEMD, PodPidsLimit: *k.PodPidsLimit,
		NoCPUQuota: !*k.CPUCFSQuota, EnforceAllocatable: slices.Contains(k.EnforceNodeAllocatable, "pods"),
		Exclusive: func(pod types.UID) bool { return a.topology.Exclusive(pod) },
	})
	if err != nil {
		return err
	}
	if err := a.cgroups.EnsureRoot(a.allocation); err != nil {
		return err
	}
	runtime, err := a.runtime.Runtime.Version(ctx, "v1")
	if err != nil {
		return fmt.Errorf("runtime version: %w", err)
	}
	a.node = nodestatus.New(nodestatus.Config{
		Client: a.client, Runtime: a.runtime, Clock: a.clock, NodeName: a.cfg.NodeName, Labels: a.labels(), Taints: k.RegisterWithTaints,
		Unschedulable: a.cfg.Cordoned, Addresses: a.addresses(), Capacity: capacity, Allocatable: a.allocation, KubeletPort: k.Port,
		LeaseSeconds: k.NodeLeaseDurationSeconds,
		Info:         nodestatus.Info(nodestatus.Version, runtime.RuntimeName+"://"+strings.TrimPrefix(runtime.RuntimeVersion, "v")),
		InUse:        func() []corev1.UniqueVolumeName { return a.volumes.InUse() },
		Pressure:     func(c corev1.NodeConditionType) bool { return a.eviction.Pressure(c) },
		Extra:        func() (corev1.ResourceList, corev1.ResourceList) { return a.devices.Resources() },
		Trouble:      a.trouble,
	})
	return nil
}

func (a *agent) labels() map[string]string {
	info := nodestatus.Info("", "")
	out := map[string]string{
		corev1.LabelHostname: a.cfg.NodeName, corev1.LabelOSStable: info.OperatingSystem, corev1.LabelArchStable: info.Architecture,
		"beta.kubernetes.io/os": info.OperatingSystem, "beta.kubernetes.io/arch": info.Architecture,
	}
	maps.Copy(out, a.cfg.NodeLabels)
	return out
}

func (a *agent) addresses() []corev1.NodeAddress {
	var out []corev1.NodeAddress
	for _, ip := range a.nodeIPs {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: a.cfg.NodeName})
}

func (a *agent) makeServing(ctx context.Context) (err error) {
	k := &a.cfg.Kubelet
	if k.TLSCertFile != "" {
		a.serving = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(k.TLSCertFile, k.TLSPrivateKeyFile)
			return &pair, err
		}
		return nil
	}
	var ips []net.IP
	for _, ip := range a.nodeIPs {
		ips = append(ips, net.ParseIP(ip))
	}
	a.serving, err = certs.Serving(ctx, certs.Config{NodeName: a.cfg.NodeName, Dir: a.cfg.CertDir, Clock: a.clock}, a.client, []string{a.cfg.NodeName}, ips)
	return err
}

// makePods builds what pods run with.
func (a *agent) makePods(ctx context.Context) (err error) {
	k := &a.cfg.Kubelet
	a.sources = newSources(a.client, a.cfg.NodeName)
	a.userns = cri.NewUserNamespaces(a.cfg.RootDir, int64(k.MaxPods))
	a.status = statusmanager.New(a.client)
	a.objects = objects.New(a.client)
	if a.claims, err = dra.New(dra.Config{Client: a.client, NodeName: a.cfg.NodeName, RootDir: a.cfg.RootDir, Clock: clock.RealClock{}, Changed: a.poke}); err != nil {
		return err
	}
	if a.devices, err = devices.New(devices.Config{RootDir: a.cfg.RootDir, Changed: a.node.Nudge, Affected: a.poke}); err != nil {
		return err
	}
	if err := a.makeTopology(); err != nil {
		return err
	}
	a.volumes = volumes.New(volumes.Config{
		Client: a.client, NodeName: a.cfg.NodeName, RootDir: a.cfg.RootDir, Objects: a.objects, Node: a.node.Node, Clock: a.clock,
		Wake: a.poke, RecursiveReadOnly: a.node.RecursiveReadOnly,
		Plugins: map[string]plugins.Handler{plugins.DRA: a.claims, plugins.Device: a.devices},
	})
	var providers []*images.Provider
	if path := a.cfg.CredentialProviders; path != "" {
		if providers, err = images.LoadProviders(path, a.cfg.CredentialProviderDir, a.client, a.clock); err != nil {
			return err
		}
	}
	a.images = images.New(images.Config{Images: a.runtime.Images, Secrets: a.objects, Providers: providers, Recorder: a.recorder, Clock: a.clock, Parallel: parallelPulls(k.SerializeImagePulls, k.MaxParallelImagePulls)})
	a.probes = probes.New(probes.Config{Exec: a.runtime.Runtime, Recorder: a.recorder, Clock: a.clock, Changed: a.poke})
	a.workers = podworker.New(ctx, podworker.Config{
		Runtime: a.runtime, Node: a.criNode(), IDPrefix: a.prefix, Images: a.images, Volumes: a.volumes, Cgroups: a.cgroups, Devices: []podworker.Devices{a.devices, a.claims}, Probes: a.probes,
		Hooks: &hooks.Runner{Exec: a.runtime.Runtime, Clock: a.clock}, Status: a.status, Recorder: a.recorder, Clock: a.clock,
		HostIPs: func() []string { return a.nodeIPs }, Env: a.env, RuntimeHandler: a.runtimeHandler, RecursiveReadOnly: a.node.RecursiveReadOnly,
		Grant: a.grant, Mirror: a.shownBy, Release: a.topology.Release, Stopped: a.stopped, LegacyLogDir: legacyLogDir,
	})
	a.stats = stats.New(stats.Config{
		NodeName: a.cfg.NodeName, RootDir: a.cfg.RootDir, LogDir: k.PodLogsDir, Runtime: a.runtime.RuntimeClient,
		Images: a.runtime.ImageClient, Pods: a.Pods, PodsCgroup: a.cgroups.RootDirectory, PodCgroup: a.cgroups.Directory, Clock: a.clock,
	})
	return nil
}

// poke has a pod's worker look again.
func (a *agent) poke(uid types.UID) { a.workers.Poke(uid) }

// maxParallelPulls bounds pulls where the configuration does not.
const maxParallelPulls = 8

func parallelPulls(serialize *bool, limit *int32) int {
	switch {
	case serialize != nil && *serialize:
		return 1
	case limit != nil && *limit > 0:
		return int(*limit)
	}
	return maxParallelPulls
}

func (a *agent) criNode() *cri.Node {
	k := &a.cfg.Kubelet
	memory := a.node.Node().Status.Capacity.Memory().Value()
	return &cri.Node{
		RootDir: a.cfg.RootDir, PodLogsRoot: k.PodLogsDir, ClusterDNS: k.ClusterDNS, ClusterDomain: k.ClusterDomain, ResolvConf: *k.ResolverConfig,
		MemoryCapacity: memory, CgroupV2: a.cgroups.V2(), SwapAccounting: a.swapAccounting(), Swap: a.swap, NoCPUQuota: !*k.CPUCFSQuota, SeccompDefault: k.SeccompDefault != nil && *k.SeccompDefault,
		AppArmor: cri.AppArmorEnabled(), CgroupParent: a.cgroups.PodParent, UserNamespaces: a.userns, Place: a.topology.Place, Exclusive: a.topology.Exclusive,
	}
}

// findPods looks at what the runtime has, before any decision is made: whatever runs stays.
func (a *agent) findPods(ctx context.Context) (err error) {
	a.preexisting, err = a.runtime.Pods(ctx)
	return err
}

// healthTimeout is how long the runtime may take to answer before the agent counts as stuck.
const healthTimeout = 10 * time.Second

// healthy reports whether the agent can do its work: without a runtime no pod makes progress.
func (a *agent) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if _, err := a.runtime.Runtime.Status(ctx, false); err != nil {
		return fmt.Errorf("container runtime is down: %w", err)
	}
	return nil
}

// run runs the parts until ctx ends or one that the others need fails.
func (a *agent) run(ctx context.Context) error {
	k := &a.cfg.Kubelet
	srv, err := server.New(server.Config{
		Address: k.Address, Port: int(k.Port), Certificate: a.serving, ClientCAFile: k.Authentication.X509.ClientCAFile, Client: a.client,
		NodeName: a.cfg.NodeName, Anonymous: *k.Authentication.Anonymous.Enabled,
		AlwaysAllow: string(k.Authorization.Mode) == "AlwaysAllow", Pods: a, Runtime: a.runtime.RuntimeClient, Summary: a.stats.Summary, DiskIO: a.stats.DiskIO,
		Healthy: func() error { return a.healthy(ctx) }, Configz: func() any { return k }, Clock: a.clock,
		ProbeMetrics:  a.probes.Metrics(),
		CheckpointDir: filepath.Join(a.cfg.RootDir, "checkpoints"),
	})
	if err != nil {
		return err
	}
	maxSize, err := resource.ParseQuantity(k.ContainerLogMaxSize)
	if err != nil {
		return fmt.Errorf("containerLogMaxSize: %w", err)
	}
	rotator := logs.NewRotator(logs.RotateConfig{Runtime: a.runtime.RuntimeClient, MaxSize: maxSize.Value(), MaxFiles: int(*k.ContainerLogMaxFiles), Clock: a.clock})
	a.broadcast.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for name, part := range map[string]func(context.Context) error{
		"node status": a.node.Run,
		"volumes":     a.volumes.Run,
		"devices":     a.devices.Run,
		"server":      srv.Run,
		"static pods": a.runStaticPods,
		"pods":        a.runPods,
		"events": func(ctx context.Context) error {
			a.runtime.Follow(ctx, a.clock, a.workers.Wake, func() {
				a.workers.WakeAll()
				a.node.Nudge() // a runtime that came back makes the node ready
			})
			return nil
		},
		"status":   func(ctx context.Context) error { a.status.Run(ctx); return nil },
		"eviction": a.eviction.Run,
		"shutdown": a.shutdown.Run,
		"pod resources": podresources.Config{
			RootDir: a.cfg.RootDir, Pods: func() []*corev1.Pod { return a.active("") }, Devices: a.devices, Claims: a.claims, Topology: a.topology,
		}.Run,
		"images": func(ctx context.Context) error { a.collector.Run(ctx); return nil },
		"logs":   func(ctx context.Context) error { rotator.Run(ctx); return nil },
	} {
		wg.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	a.broadcast.Shutdown()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
