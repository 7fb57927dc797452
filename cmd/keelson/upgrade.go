package main

import (
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/lab/cluster"
)

func upgradeCommand(name *string) *cobra.Command {
	options := cluster.Options{Timeout: 10 * time.Minute, Kubeconfig: kubeconfig.UserPath()}
	command := &cobra.Command{
		Use:   "upgrade",
		Short: "Let a cluster go on with this version of Keelson, node after node; its pods keep running",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := fill(&options, *name); err != nil {
				return err
			}
			c, err := cluster.Upgrade(command.Context(), options)
			if err != nil {
				return err
			}
			options.Step("cluster %s runs %s", c.Name, version.Get().GitVersion)
			return nil
		},
	}
	addServingFlags(command.Flags(), &options)
	return command
}
