package main

import (
	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/heap"
	"keelson.dev/kubelet-lite/agent"
	"keelson.dev/proxy-lite/podnetwork"
	"keelson.dev/proxy-lite/proxier"
)

// agentCommand runs what every node runs: the kubelet, the service proxy and the pod network, in one process and with one identity.
func agentCommand() *cobra.Command {
	config := agent.NewConfig()
	config.Kubeconfig = "/etc/kubernetes/kubelet.conf"
	var clusterCIDR string
	command := &cobra.Command{
		Use:   "agent",
		Short: "Run a node: kubelet, service proxy and pod network in one process",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := config.Resolve(command.Flags()); err != nil {
				return err
			}
			return runAgent(command.Context(), config, clusterCIDR)
		},
	}
	config.AddFlags(command.Flags())
	command.Flags().StringVar(&clusterCIDR, "cluster-cidr", "10.244.0.0/16", "range of pod addresses of the whole cluster")
	return command
}

func runAgent(ctx context.Context, config agent.Config, clusterCIDR string) error {
	heap.Keep(ctx, 16<<20)
	group, ctx := errgroup.WithContext(ctx)
	config.Joined = func(identity *rest.Config) {
		group.Go(func() error {
			return podnetwork.Run(ctx, podnetwork.Config{
				RESTConfig: identity, NodeName: config.NodeName, ConfDir: "/etc/cni/net.d", DataDir: "/var/lib/cni",
			})
		})
		group.Go(func() error {
			return proxier.Run(ctx, proxier.Config{
				RESTConfig: identity, NodeName: config.NodeName, ClusterCIDR: clusterCIDR, MasqueradeEgress: true, NetworkPolicy: true, LoadBalancers: true,
			})
		})
	}
	group.Go(func() error { return agent.Run(ctx, config) })
	return group.Wait()
}
