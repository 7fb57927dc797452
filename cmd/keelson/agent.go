package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/heap"
	"keelson.dev/internal/serverpool"
	"keelson.dev/kubelet-lite/agent"
	"keelson.dev/proxy-lite/podnetwork"
	"keelson.dev/proxy-lite/proxier"
)

// agentCommand runs what every node runs: the kubelet, the service proxy and the pod network, in one process and with one identity.
func agentCommand() *cobra.Command {
	config := agent.NewConfig()
	config.Kubeconfig = "/etc/kubernetes/kubelet.conf"
	var (
		pods        = podnetwork.Config{ConfDir: "/etc/cni/net.d", DataDir: "/var/lib/cni"}
		clusterCIDR string
		servers     []string
		join        invitation
	)
	command := &cobra.Command{
		Use:   "agent",
		Short: "Run a node: kubelet, service proxy and pod network in one process",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := config.Resolve(command.Flags()); err != nil {
				return err
			}
			return runAgent(command.Context(), config, pods, clusterCIDR, servers, join)
		},
	}
	config.AddFlags(command.Flags())
	command.Flags().StringVar(&clusterCIDR, "cluster-cidr", "10.244.0.0/16", "range of pod addresses of the whole cluster")
	command.Flags().BoolVar(&pods.VXLAN, "vxlan", false, "reach the pods of every other node through VXLAN (UDP port 8472), not only of those that share no link with this one; the same on all nodes")
	join.addFlags(command.Flags())
	command.Flags().StringSliceVar(&servers, "server", nil, "API servers as https://host:port, the preferred one first, in place of the kubeconfig's; the agent learns of others")
	return command
}

func runAgent(ctx context.Context, config agent.Config, pods podnetwork.Config, clusterCIDR string, urls []string, join invitation) error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: it makes namespaces, mounts and network interfaces (try again with sudo)")
	}
	if _, err := os.Stat("/etc/hosts"); err != nil {
		return fmt.Errorf("containerd copies /etc/hosts for every pod (on Debian: apt-get install netbase): %w", err)
	}
	heap.Keep(ctx, 16<<20)
	group, ctx := errgroup.WithContext(ctx)
	follow := func(*rest.Config) error { return nil }
	if len(urls) > 0 {
		servers, pool, err := serverPool(ctx, &config, urls, join)
		if err != nil {
			return err
		}
		config.Reach = pool.Apply
		follow = func(identity *rest.Config) error { return servers.follow(ctx, identity) }
		group.Go(func() error { pool.Run(ctx); return nil })
	}
	config.Joined = func(identity *rest.Config) {
		group.Go(func() error { return follow(identity) })
		pods.RESTConfig, pods.NodeName = identity, config.NodeName
		group.Go(func() error { return podnetwork.Run(ctx, pods) })
		group.Go(func() error {
			return proxier.Run(ctx, proxier.Config{
				RESTConfig: identity, NodeName: config.NodeName, ClusterCIDR: clusterCIDR, MasqueradeEgress: true, NetworkPolicy: true, LoadBalancers: true,
			})
		})
	}
	group.Go(func() error { return agent.Run(ctx, config) })
	return group.Wait()
}

// serverPool finds the cluster's servers, and joins the cluster if there is an invitation.
func serverPool(ctx context.Context, config *agent.Config, urls []string, join invitation) (*serverList, *serverpool.Pool, error) {
	servers, err := newServerList(urls, config.RootDir)
	if err != nil {
		return nil, nil, err
	}
	path := config.Kubelet.Authentication.X509.ClientCAFile
	if join.given() {
		config.BootstrapKubeconfig = cmp.Or(config.BootstrapKubeconfig, "/etc/kubernetes/bootstrap-kubelet.conf")
		if err := join.node(ctx, path, config.BootstrapKubeconfig, servers.all()); err != nil {
			return nil, nil, err
		}
	}
	authority, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read cluster authority: %w", err)
	}
	pool, err := serverpool.New(authority, servers.all)
	return servers, pool, err
}
