package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// file writes a KubeProxyConfiguration with the given fields.
func file(t *testing.T, fields string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n" + fields
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// resolved returns what the proxy runs with on a command line.
func resolved(t *testing.T, args ...string) (o options, without []string, err error) {
	t.Helper()
	flags := command(&o).Flags()
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	without, err = o.resolve(flags)
	return o, without, err
}

func TestFlagsWinOverTheFile(t *testing.T) {
	path := file(t, `
mode: nftables
clusterCIDR: 10.1.0.0/16,fd00:1::/64
hostnameOverride: from-file
metricsBindAddress: 0.0.0.0:10249
nodePortAddresses: [primary]
nftables: {masqueradeAll: true}
clientConnection: {kubeconfig: /etc/proxy.conf}
conntrack: {maxPerCore: 0}
`)
	o, without, err := resolved(t, "--config", path, "--hostname-override", "from-flag")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want string }{
		{"name", o.NodeName, "from-flag"},
		{"cluster CIDR", o.ClusterCIDR, "10.1.0.0/16,fd00:1::/64"},
		{"metrics", o.MetricsBindAddress, "0.0.0.0:10249"},
		{"health", o.HealthzBindAddress, "0.0.0.0:10256"},
		{"kubeconfig", o.kubeconfig, "/etc/proxy.conf"},
		{"node ports", strings.Join(o.NodePortCIDRs, ","), "primary"},
		{"without effect", strings.Join(without, ","), "conntrack"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	if !o.MasqueradeAll {
		t.Error("masqueradeAll of the file was lost")
	}
}

func TestRefusesOtherProxies(t *testing.T) {
	for _, c := range []struct{ fields, want string }{
		{"mode: ipvs", `mode: Unsupported value: "ipvs": supported values: "nftables"`},
		{"detectLocalMode: BridgeInterface", `detectLocalMode: Unsupported value: "BridgeInterface"`},
		{"clusterCDIR: 10.0.0.0/8", `unknown field "clusterCDIR"`},
		{"kind: Pod", "already set"},
	} {
		if _, _, err := resolved(t, "--config", file(t, c.fields)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.fields, err, c.want)
		}
	}
	if _, without, err := resolved(t); err != nil || !slices.Equal(without, nil) {
		t.Errorf("no file: got %v, %v", without, err)
	}
}
