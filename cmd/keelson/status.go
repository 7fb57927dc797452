package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keelson.dev/lab/cluster"
)

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the health of a cluster at a glance", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				health := c.Health(command.Context())
				fmt.Printf("cluster %s\napi     %s, %s\n", c.Name, c.APIServer(), health.API)
				fmt.Printf("nodes   %d of %d Ready\npods    %d of %d Running\n\n",
					health.NodesReady, len(c.Members), health.PodsRunning, health.Pods)
				return printNodes(command.Context(), c)
			})
		},
	}
}
