package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"keelson.dev/internal/features"
)

// Config is what an agent runs with: upstream's configuration file, and what upstream has as flags only.
type Config struct {
	Kubelet kubeletconfig.KubeletConfiguration

	NodeName string
	NodeIPs  []string // empty: the address that leads to the API server
	// RESTConfig is used as it is if set. Otherwise Kubeconfig if the file exists, and else a client certificate is asked for
	// with BootstrapKubeconfig and renewed before it expires.
	RESTConfig          *rest.Config
	Kubeconfig          string
	BootstrapKubeconfig string

	// Reach, if set, changes how the API server that a kubeconfig names is reached, with the bootstrap credentials too.
	Reach func(*rest.Config)
	// Joined, if set, is told the node's identity once it has one: what else runs on the node uses the same.
	Joined func(identity *rest.Config)

	RootDir               string            // /var/lib/kubelet
	CertDir               string            // <RootDir>/pki
	NodeLabels            map[string]string // on registration
	Cordoned              bool              // registers the node unschedulable
	ConfigFile, ConfigDir string
	// CredentialProviders is the file, or folder of files, of a CredentialProviderConfig; the programs that it names are in the folder
	// CredentialProviderDir.
	CredentialProviders, CredentialProviderDir string
	taints                                     []string
}

// NewConfig returns upstream's defaults for everything that is used.
func NewConfig() Config {
	c := Config{RootDir: "/var/lib/kubelet", NodeLabels: map[string]string{}}
	k := &c.Kubelet
	k.APIVersion, k.Kind = kubeletconfig.SchemeGroupVersion.String(), "KubeletConfiguration"
	k.Address, k.Port = "0.0.0.0", 10250
	k.StaticPodPath = "/etc/kubernetes/manifests"
	k.ContainerRuntimeEndpoint = "unix:///run/containerd/containerd.sock"
	k.ClusterDomain = "cluster.local"
	k.NodeLeaseDurationSeconds = 40
	k.MaxPods, k.PodPidsLimit = 110, new(int64(-1))
	k.ResolverConfig = new("/etc/resolv.conf")
	k.FailSwapOn = new(true)
	k.CgroupsPerQOS, k.CPUCFSQuota = new(true), new(true)
	k.EnforceNodeAllocatable = []string{"pods"}
	k.SerializeImagePulls, k.MaxParallelImagePulls = new(false), new(int32(5))
	k.ContainerLogMaxSize, k.ContainerLogMaxFiles = "10Mi", new(int32(5))
	k.ImageGCHighThresholdPercent, k.ImageGCLowThresholdPercent = new(int32(85)), new(int32(80))
	k.ImageMinimumGCAge = metav1.Duration{Duration: 2 * time.Minute}
	k.EvictionHard = map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}
	k.EvictionPressureTransitionPeriod = metav1.Duration{Duration: 5 * time.Minute}
	k.Authentication.X509.ClientCAFile = "/etc/kubernetes/pki/ca.crt"
	k.Authentication.Anonymous.Enabled = new(false)
	k.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	k.PodLogsDir = "/var/log/pods"
	k.RotateCertificates, k.ServerTLSBootstrap = true, true                     // always, if the node has an identity to renew
	k.StreamingConnectionIdleTimeout = metav1.Duration{Duration: 4 * time.Hour} // containerd's, which serves the streams
	return c
}

// AddFlags registers the flags under upstream's names. Resolve must be called after parsing.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	k := &c.Kubelet
	fs.StringVar(&c.NodeName, "node-name", c.NodeName, "name of the node; empty: the host's name")
	fs.StringVar(&c.NodeName, "hostname-override", c.NodeName, "the same, as upstream calls it")
	fs.StringSliceVar(&c.NodeIPs, "node-ip", c.NodeIPs, "addresses of the node, the primary one first")
	fs.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "how to reach the API server")
	fs.StringVar(&c.BootstrapKubeconfig, "bootstrap-kubeconfig", c.BootstrapKubeconfig, "how to ask for a client certificate if there is none")
	fs.StringVar(&c.RootDir, "root-dir", c.RootDir, "the agent's state")
	fs.StringVar(&c.CertDir, "cert-dir", c.CertDir, "the agent's certificates; empty: pki below the root directory")
	fs.StringToStringVar(&c.NodeLabels, "node-labels", c.NodeLabels, "labels to register the node with")
	fs.StringSliceVar(&c.taints, "register-with-taints", nil, "taints to register the node with: key=value:effect")
	fs.BoolVar(&c.Cordoned, "register-unschedulable", c.Cordoned, "register the node cordoned")
	fs.StringVar(&c.ConfigFile, "config", c.ConfigFile, "KubeletConfiguration file")
	fs.StringVar(&c.ConfigDir, "config-dir", c.ConfigDir, "folder of .conf files that are laid over the configuration file")
	fs.StringVar(&c.CredentialProviders, "image-credential-provider-config", "", "CredentialProviderConfig file, or folder of such files")
	fs.StringVar(&c.CredentialProviderDir, "image-credential-provider-bin-dir", "", "folder of the credential provider programs")
	fs.StringVar(&k.ContainerRuntimeEndpoint, "container-runtime-endpoint", k.ContainerRuntimeEndpoint, "CRI socket")
	fs.StringVar(&k.ImageServiceEndpoint, "image-service-endpoint", k.ImageServiceEndpoint, "CRI image socket; empty: the runtime's")
	fs.StringSliceVar(&k.ClusterDNS, "cluster-dns", k.ClusterDNS, "addresses of the cluster's DNS")
	fs.StringVar(&k.ClusterDomain, "cluster-domain", k.ClusterDomain, "the cluster's DNS domain")
	fs.StringVar(&k.StaticPodPath, "pod-manifest-path", k.StaticPodPath, "folder of static pods")
	fs.StringVar(k.ResolverConfig, "resolv-conf", *k.ResolverConfig, "resolver configuration that pods inherit")
	fs.Int32Var(&k.MaxPods, "max-pods", k.MaxPods, "pods that the node takes")
	fs.Int32Var(&k.NodeLeaseDurationSeconds, "node-lease-duration-seconds", k.NodeLeaseDurationSeconds, "how long a heartbeat counts; it is sent four times as often")
	fs.Int32Var(&k.Port, "port", k.Port, "port of the kubelet's API")
	fs.StringVar(&k.Address, "address", k.Address, "address of the kubelet's API")
	fs.StringVar(&k.CgroupRoot, "cgroup-root", k.CgroupRoot, "control group below which pods' groups are made")
	fs.StringVar(&k.Authentication.X509.ClientCAFile, "client-ca-file", k.Authentication.X509.ClientCAFile, "authority of the kubelet API's clients")
	fs.Var(cliflag.NewMapStringBool(&k.FeatureGates), "feature-gates", "feature gates to open or close: name=true,other=false")
	fs.StringSliceVar(&k.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls that pods may set beyond the safe ones")
}

// Resolve reads the configuration files and fills in what depends on the machine. Flags that were given win over files.
func (c *Config) Resolve(fs *pflag.FlagSet) error {
	restore := given(fs)
	if err := c.readFiles(); err != nil {
		return err
	}
	if err := restore(); err != nil {
		return err
	}
	if err := features.ApplyMap(c.Kubelet.FeatureGates); err != nil {
		return err
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name of this machine: %w", err)
		}
		c.NodeName = name
	}
	c.NodeName = strings.ToLower(strings.TrimSpace(c.NodeName))
	if c.CertDir == "" {
		c.CertDir = filepath.Join(c.RootDir, "pki")
	}
	for _, text := range c.taints {
		taint, err := parseTaint(text)
		if err != nil {
			return err
		}
		c.Kubelet.RegisterWithTaints = append(c.Kubelet.RegisterWithTaints, taint)
	}
	return nil
}

// given remembers the flags on the command line, which share their variables with the files.
func given(fs *pflag.FlagSet) (restore func() error) {
	var again []func() error
	if fs != nil {
		fs.Visit(func(f *pflag.Flag) {
			switch v := f.Value.(type) {
			case pflag.SliceValue:
				values := slices.Clone(v.GetSlice())
				again = append(again, func() error { return v.Replace(values) })
			default:
				if text := f.Value.String(); f.Value.Type() != "stringToString" { // no file sets those
					again = append(again, func() error { return f.Value.Set(text) })
				}
			}
		})
	}
	return func() error {
		var errs []error
		for _, set := range again {
			errs = append(errs, set())
		}
		return errors.Join(errs...)
	}
}

func (c *Config) readFiles() error {
	var paths []string
	if c.ConfigFile != "" {
		paths = append(paths, c.ConfigFile)
	}
	if c.ConfigDir != "" {
		more, err := filepath.Glob(filepath.Join(c.ConfigDir, "*.conf"))
		if err != nil {
			return fmt.Errorf("configuration folder: %w", err)
		}
		slices.Sort(more)
		paths = append(paths, more...)
	}
	if len(paths) == 0 {
		return nil
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := yaml.UnmarshalStrict(data, &c.Kubelet); err != nil {
			return fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	return nil
}

// parseTaint reads key=value:effect or key:effect.
func parseTaint(text string) (corev1.Taint, error) {
	spec, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(spec, "=")
	taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	switch taint.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
	default:
		ok = false
	}
	if !ok || key == "" {
		return taint, fmt.Errorf("invalid taint %q: want key=value:effect", text)
	}
	return taint, nil
}
