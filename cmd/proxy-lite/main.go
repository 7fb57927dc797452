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
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "proxy-lite:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg proxier.Config
	var kubeconfig string
	cmd := &cobra.Command{
		Use:           "proxy-lite",
		Short:         "Give Services their addresses on this node",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			restConfig, err := apiclient.FromKubeconfig(kubeconfig, "proxy-lite")
			if err != nil {
				return err
			}
			cfg.RESTConfig = restConfig
			if cfg.NodeName == "" {
				if cfg.NodeName, err = os.Hostname(); err != nil {
					return fmt.Errorf("read host name: %w", err)
				}
			}
			return proxier.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/proxy.conf", "kubeconfig of the API server")
	flags.StringVar(&cfg.NodeName, "hostname-override", "", "name of this node; empty means the host name")
	flags.StringVar(&cfg.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "addresses of pods, separated by commas")
	flags.BoolVar(&cfg.MasqueradeAll, "masquerade-all", false, "rewrite the source of all service traffic")
	flags.BoolVar(&cfg.MasqueradeEgress, "masquerade-egress", true, "rewrite the source of pod traffic that leaves the cluster")
	flags.BoolVar(&cfg.NetworkPolicy, "network-policy", false, "enforce NetworkPolicies; needs to watch pods, namespaces and networkpolicies")
	flags.BoolVar(&cfg.LoadBalancers, "load-balancers", false, "answer for the load-balancer addresses that Keelson's controller gives to this node")
	flags.StringVar(&cfg.HealthzBindAddress, "healthz-bind-address", "0.0.0.0:10256", `address of /healthz and /livez; "-" for none`)
	flags.StringSliceVar(&cfg.NodePortCIDRs, "nodeport-addresses", nil, "CIDRs of node addresses that answer on node ports; empty means the internal ones")
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	flags.AddGoFlag(logging.Lookup("v"))
	return cmd
}
