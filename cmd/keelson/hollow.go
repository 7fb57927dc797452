package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/heap"
	"keelson.dev/kubelet-lite/hollow"
)

// hollowFlags are those that shape hollow nodes: of keelson hollow and of keelson node add.
func hollowFlags(fs *pflag.FlagSet, c *hollow.Config, capacity *map[string]string) {
	fs.IntVar(&c.Zones, "zones", c.Zones, "zones to spread hollow nodes over; 0: none")
	fs.StringToStringVar(&c.Labels, "labels", nil, "further labels of hollow nodes")
	fs.StringToStringVar(capacity, "capacity", nil, "what each hollow node has, as resource=quantity (default cpu=8,memory=32Gi,pods=110,ephemeral-storage=100Gi)")
	fs.BoolVar(&c.Events, "events", c.Events, "tell what happens to pods of hollow nodes")
	fs.Int32Var(&c.LeaseSeconds, "lease-seconds", c.LeaseSeconds, "how long a hollow node's heartbeat counts; it is sent four times as often")
}

// hollowCommand runs hollow nodes for any cluster, ours or not.
func hollowCommand() *cobra.Command {
	config := hollow.NewConfig()
	var (
		kubeconfig, nodeCIDR, podCIDR string
		capacity                      map[string]string
		readyFD                       int
	)
	command := &cobra.Command{
		Use:   "hollow",
		Short: "Run hollow nodes: nodes that are real to the API and run nothing",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) (err error) {
			if config.RESTConfig, err = apiclient.FromKubeconfig(kubeconfig, "hollow"); err != nil {
				return err
			}
			if err := config.Capacities(capacity); err != nil {
				return err
			}
			if config.NodeCIDR, err = netip.ParsePrefix(nodeCIDR); err != nil {
				return fmt.Errorf("--node-cidr: %w", err)
			}
			if podCIDR != "" {
				if config.PodCIDR, err = netip.ParsePrefix(podCIDR); err != nil {
					return fmt.Errorf("--pod-cidr: %w", err)
				}
			}
			return runHollow(command.Context(), config, readyFD)
		},
	}
	flags := command.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "the cluster and who to be there: who may impersonate nodes, or see --impersonate")
	flags.BoolVar(&config.Impersonate, "impersonate", config.Impersonate, "act as each node by impersonation; without, as the kubeconfig's user")
	flags.StringVar(&config.Fleet, "fleet", config.Fleet, "what the nodes' names begin with")
	flags.IntVar(&config.Nodes, "nodes", config.Nodes, "how many")
	flags.StringVar(&nodeCIDR, "node-cidr", config.NodeCIDR.String(), "range of the nodes' addresses, at which nobody answers")
	flags.StringVar(&podCIDR, "pod-cidr", "", "range of pod addresses, a part for each node; empty: the cluster's controllers give them")
	flags.IntVar(&readyFD, "ready-fd", 0, "file descriptor that is told when all nodes are Ready")
	hollowFlags(flags, &config, &capacity)
	if err := command.MarkFlagRequired("kubeconfig"); err != nil {
		panic(err) // the flag stands above
	}
	return command
}

func runHollow(ctx context.Context, config hollow.Config, readyFD int) error {
	heap.Keep(ctx, 16<<20)
	started := time.Now()
	config.Ready = func() {
		fmt.Fprintf(os.Stderr, "%d hollow nodes are Ready after %.1f s\n", config.Nodes, time.Since(started).Seconds())
		if readyFD > 0 {
			ready := os.NewFile(uintptr(readyFD), "ready")
			fmt.Fprintln(ready, "ready")
			ready.Close()
		}
	}
	return hollow.Run(ctx, config)
}
