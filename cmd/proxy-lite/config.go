package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"

	"keelson.dev/internal/features"
	"keelson.dev/proxy-lite/proxier"
)

// options are what the command line says.
type options struct {
	proxier.Config
	kubeconfig, file string
	dryRun           bool
}

// resolve lays a KubeProxyConfiguration under the flags that were given: where a flag stands at its default, the file decides. It
// refuses what asks for another kind of proxy, and returns the settings that have no effect here.
func (o *options) resolve(flags *pflag.FlagSet) (without []string, err error) {
	if o.file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var c proxyconfig.KubeProxyConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", o.file, err)
	}
	if want := proxyconfig.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeProxyConfiguration" {
		return nil, fmt.Errorf("configuration %s: want kind KubeProxyConfiguration of %s, got %q of %q", o.file, want, c.Kind, c.APIVersion)
	}
	if err := errors.Join(
		only("mode", c.Mode, proxyconfig.ProxyMode("nftables")),
		only("detectLocalMode", c.DetectLocalMode, proxyconfig.LocalMode("ClusterCIDR")),
		features.ApplyMap(c.FeatureGates),
	); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", o.file, err)
	}
	set := func(flag string, value *string, file string) {
		if !flags.Changed(flag) {
			*value = cmp.Or(file, *value)
		}
	}
	set("kubeconfig", &o.kubeconfig, c.ClientConnection.Kubeconfig)
	set("hostname-override", &o.NodeName, c.HostnameOverride)
	set("cluster-cidr", &o.ClusterCIDR, c.ClusterCIDR)
	set("healthz-bind-address", &o.HealthzBindAddress, c.HealthzBindAddress)
	set("metrics-bind-address", &o.MetricsBindAddress, c.MetricsBindAddress)
	if !flags.Changed("nodeport-addresses") {
		o.NodePortCIDRs = c.NodePortAddresses
	}
	if !flags.Changed("masquerade-all") {
		o.MasqueradeAll = c.NFTables.MasqueradeAll
	}
	if !flags.Changed("profiling") {
		o.Profiling = c.EnableProfiling
	}
	conntrack := c.Conntrack
	for name, given := range map[string]bool{
		"conntrack":   conntrack != proxyconfig.KubeProxyConntrackConfiguration{},
		"bindAddress": c.BindAddress != "" && c.BindAddress != "0.0.0.0" && c.BindAddress != "::",
		"oomScoreAdj": c.OOMScoreAdj != nil,
		"iptables":    c.IPTables.MasqueradeAll,
	} {
		if given {
			without = append(without, name)
		}
	}
	return without, nil
}

// only refuses every value of a field but one, and the empty one.
func only[T ~string](field string, got, want T) error {
	if got == "" || got == want {
		return nil
	}
	return fmt.Errorf("%s: Unsupported value: %q: supported values: %q", field, got, want)
}
