package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keelson.dev/lab/cluster"
	"keelson.dev/lab/images"
	"keelson.dev/lab/registry"
)

func imageCommand(name *string) *cobra.Command {
	command := &cobra.Command{Use: "image", Short: "Load, build, list and remove the images that nodes pull"}
	command.AddCommand(imageLoadCommand(name), imageListCommand(name), imageRemoveCommand(name), imageBuildCommand(name), imagePackCommand(), imageBundleCommand())
	return command
}

func imageLoadCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "load FILE [FILE...]",
		Short:   "Load images from archives (docker save, OCI layouts) into the machine's registry",
		Aliases: []string{"push"},
		Args:    cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				for _, file := range args {
					loaded, err := registry.Load(command.Context(), c.ImageHandler(command.Context()), file)
					for _, reference := range loaded {
						fmt.Println(reference)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func imageListCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the images of the machine's registry", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				references, err := registry.List(command.Context(), c.ImageHandler(command.Context()))
				for _, reference := range references {
					fmt.Println(reference)
				}
				return err
			})
		},
	}
}

func imageRemoveCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE [IMAGE...]", Short: "Remove images from the machine's registry; nodes that have pulled one keep it",
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error { return c.RemoveImages(command.Context(), args) })
		},
	}
}

func imageBundleCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bundle", Short: "Build the images that every cluster needs (make images does)", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			dir, err := bundleDir()
			if err != nil {
				return err
			}
			return images.BuildBundled(dir)
		},
	}
}
