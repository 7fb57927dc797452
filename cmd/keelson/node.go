package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keelson.dev/kubelet-lite/hollow"
	"keelson.dev/lab/cluster"
	"keelson.dev/lab/node"
)

func nodeCommand(name *string) *cobra.Command {
	command := &cobra.Command{Use: "node", Short: "Add, remove, kill, freeze and enter nodes"}
	command.AddCommand(
		nodeListCommand(name),
		nodeAddCommand(name),
		onNode(name, "rm NODE", "End a node and remove all that it had", (*cluster.Cluster).RemoveNode),
		onNode(name, "kill NODE", "Cut a node's power", (*cluster.Cluster).KillNode),
		onNode(name, "start NODE", "Switch a killed node on again", (*cluster.Cluster).StartNode),
		onNode(name, "freeze NODE", "Stop every process of a node where it is", lab((*node.Node).Freeze)),
		onNode(name, "thaw NODE", "Let a frozen node go on", lab((*node.Node).Thaw)),
		nodeExecCommand(name),
	)
	return command
}

// lab lifts an action of a lab node to one of the cluster.
func lab(action func(*node.Node, context.Context) error) func(*cluster.Cluster, context.Context, string) error {
	return func(c *cluster.Cluster, ctx context.Context, name string) error {
		m, err := c.Member(name)
		if err != nil {
			return err
		}
		return action(c.Node(*m), ctx)
	}
}

func onNode(name *string, use, short string, action func(*cluster.Cluster, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return withCluster(*name, func(c *cluster.Cluster) error { return action(c, command.Context(), args[0]) })
		},
	}
}

func nodeAddCommand(name *string) *cobra.Command {
	var (
		count    int
		server   bool
		config   = hollow.NewConfig()
		capacity map[string]string
		shape    = pflag.NewFlagSet("hollow", pflag.ContinueOnError)
	)
	hollowFlags(shape, &config, &capacity)
	command := &cobra.Command{
		Use: "add", Short: "Add a worker, a server, or many hollow workers, and wait until all are Ready", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return withCluster(*name, func(c *cluster.Cluster) error {
				if count > 0 {
					return addHollow(command.Context(), c, count, shape)
				}
				role := cluster.Worker
				if server {
					role = cluster.Server
				}
				m, err := c.AddNode(command.Context(), role)
				if err == nil {
					fmt.Printf("node %s is Ready\n", m.Name)
				}
				return err
			})
		},
	}
	command.Flags().BoolVar(&server, "server", false, "add a server, which joins the control plane")
	command.Flags().IntVar(&count, "hollow", 0, "how many hollow nodes: real to the API, and their pods only pretend to run")
	command.Flags().AddFlagSet(shape)
	return command
}

func addHollow(ctx context.Context, c *cluster.Cluster, count int, shape *pflag.FlagSet) error {
	started, args := time.Now(), []string{}
	shape.Visit(func(f *pflag.Flag) {
		args = append(args, "--"+f.Name+"="+strings.Trim(f.Value.String(), "[]"))
	})
	f, err := c.AddFleet(ctx, count, hollow.Name, args)
	if err == nil {
		fmt.Printf("fleet %s: %d hollow nodes are Ready after %.1f s\n", f.Name, count, time.Since(started).Seconds())
	}
	return err
}

func nodeExecCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE COMMAND [ARG...]", Short: "Run a program inside a node", Args: cobra.MinimumNArgs(2),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, args []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				m, err := c.Member(args[0])
				if err != nil {
					return err
				}
				return c.Node(*m).Exec(command.Context(), args[1:])
			})
		},
	}
}

func nodeListCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List nodes", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				nodes, err := c.Nodes(command.Context())
				if err != nil {
					return err
				}
				return printNodes(nodes)
			})
		},
	}
}
