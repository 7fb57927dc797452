package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keelson.dev/lab/buildkit"
	"keelson.dev/lab/cluster"
)

func imageBuildCommand(name *string) *cobra.Command {
	var options buildkit.Options
	command := &cobra.Command{
		Use:   "build -t NAME [-f Dockerfile] DIR",
		Short: "Build an image from a Dockerfile with BuildKit into the machine's registry (make buildkit builds BuildKit)",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			options.Context = args[0]
			return viewCluster(*name, func(c *cluster.Cluster) error {
				builder, err := c.Builder(command.Context())
				if err != nil {
					return err
				}
				if err := builder.Build(command.Context(), options); err != nil {
					return err
				}
				fmt.Println(options.Tag)
				return nil
			})
		},
	}
	flags := command.Flags()
	flags.StringVarP(&options.Tag, "tag", "t", "", "name of the image, as pods use it")
	flags.StringVarP(&options.Dockerfile, "file", "f", "", "Dockerfile (default DIR/Dockerfile)")
	flags.StringArrayVar(&options.BuildArgs, "build-arg", nil, "NAME=VALUE for an ARG of the Dockerfile; may be repeated")
	flags.StringVar(&options.Target, "target", "", "stage to build (default the last)")
	flags.BoolVar(&options.NoCache, "no-cache", false, "run all steps again")
	_ = command.MarkFlagRequired("tag")
	return command
}
