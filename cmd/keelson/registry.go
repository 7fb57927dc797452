package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/lab/cluster"
)

// balancerCommand is what keelson up starts in the background for several servers.
func balancerCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "balancer", Short: "Lead clients to an API server that is ready; file descriptor 3 is told when it listens", Args: cobra.NoArgs, Hidden: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ready := os.NewFile(3, "ready")
			if ready == nil {
				return fmt.Errorf("file descriptor 3 is not open: keelson up starts the balancer")
			}
			return viewCluster(*name, func(c *cluster.Cluster) error { return c.ServeAPI(command.Context(), ready) })
		},
	}
}

// registryCommand is what keelson up starts in the background.
func registryCommand(name *string) *cobra.Command {
	command := &cobra.Command{Use: "registry", Short: "The machine's image registry", Hidden: true}
	command.AddCommand(&cobra.Command{
		Use: "serve", Short: "Serve images to a cluster's nodes; file descriptor 3 is told when it listens", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ready := os.NewFile(3, "ready")
			if ready == nil {
				return fmt.Errorf("file descriptor 3 is not open: keelson up starts the registry")
			}
			return viewCluster(*name, func(c *cluster.Cluster) error { return c.ServeRegistry(command.Context(), ready) })
		},
	})
	return command
}
