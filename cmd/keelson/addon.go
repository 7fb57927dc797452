package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/lab/cluster"
)

func addonCommand(name *string) *cobra.Command {
	command := &cobra.Command{Use: "addon", Short: "List, enable and disable what a cluster can have besides what it needs"}
	command.AddCommand(
		addonListCommand(name),
		onAddon(name, "enable NAME", "Apply an addon and wait until it is available", (*cluster.Cluster).EnableAddon),
		onAddon(name, "disable NAME", "Remove all that an addon consists of", (*cluster.Cluster).DisableAddon),
	)
	return command
}

func onAddon(name *string, use, short string, action func(*cluster.Cluster, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return withCluster(*name, func(c *cluster.Cluster) error { return action(c, command.Context(), args[0]) })
		},
	}
}

func addonListCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the addons, and which of them the cluster has", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				list, err := c.Addons(command.Context())
				if err != nil {
					return err
				}
				table := newTable(os.Stdout)
				fmt.Fprintln(table, "NAME\tENABLED\tWHAT IT IS")
				for _, addon := range list {
					fmt.Fprintf(table, "%s\t%t\t%s\n", addon.Name, addon.Enabled, addon.About)
				}
				return table.Flush()
			})
		},
	}
}
