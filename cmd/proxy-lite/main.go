// Command proxy-lite gives Services their addresses on one node.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
	"keelson.dev/proxy-lite/proxier"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(&options{}).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "proxy-lite:", err)
		os.Exit(1)
	}
}

func command(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "proxy-lite",
		Short:         "Give Services their addresses on this node",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.file, "config", "", "KubeProxyConfiguration file; flags that are given win over it")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "/etc/kubernetes/proxy.conf", "kubeconfig of the API server")
	flags.StringVar(&o.NodeName, "hostname-override", "", "name of this node; empty means the host name")
	flags.StringVar(&o.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "addresses of pods, separated by commas")
	flags.BoolVar(&o.MasqueradeAll, "masquerade-all", false, "rewrite the source of all service traffic")
	flags.BoolVar(&o.MasqueradeEgress, "masquerade-egress", true, "rewrite the source of pod traffic that leaves the cluster")
	flags.BoolVar(&o.NetworkPolicy, "network-policy", false, "enforce NetworkPolicies; needs to watch pods, namespaces and networkpolicies")
	flags.BoolVar(&o.LoadBalancers, "load-balancers", false, "answer for the load-balancer addresses that Keelson's controller gives to this node")
	flags.StringVar(&o.HealthzBindAddress, "healthz-bind-address", "0.0.0.0:10256", `address of /healthz and /livez; "-" for none`)
	flags.StringVar(&o.MetricsBindAddress, "metrics-bind-address", "127.0.0.1:10249", `address of /metrics, without TLS; "" for none`)
	flags.BoolVar(&o.Profiling, "profiling", false, "serve /debug/pprof where the metrics are")
	flags.StringSliceVar(&o.NodePortCIDRs, "nodeport-addresses", nil, `CIDRs of node addresses that answer on node ports, "all" or "primary"; empty means primary, the internal ones`)
	flags.BoolVar(&o.dryRun, "dry-run", false, "print the rules of this node as they should be now, one frontend a line, and change nothing")
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	flags.AddGoFlag(logging.Lookup("v"))
	return cmd
}

func run(cmd *cobra.Command, o *options) error {
	without, err := o.resolve(cmd.Flags())
	if err != nil {
		return err
	}
	if len(without) > 0 {
		klog.InfoS("Settings without effect", "fields", without)
	}
	if o.RESTConfig, err = apiclient.FromKubeconfig(o.kubeconfig, "proxy-lite"); err != nil {
		return err
	}
	if o.NodeName == "" {
		if o.NodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
	}
	if !o.dryRun {
		return proxier.Run(cmd.Context(), o.Config)
	}
	rules, err := proxier.DryRun(cmd.Context(), o.Config)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), rules)
	return err
}
