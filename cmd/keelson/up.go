package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/lab/cluster"
)

func upCommand(name *string) *cobra.Command {
	options := cluster.Options{Workers: 2, Timeout: 3 * time.Minute, Kubeconfig: kubeconfig.UserPath()}
	command := &cobra.Command{
		Use:   "up",
		Short: "Make a cluster, or bring one back as it was",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := fill(&options, *name); err != nil {
				return err
			}
			c, err := cluster.Up(command.Context(), options)
			return isUp(options, c, err)
		},
	}
	flags := command.Flags()
	flags.IntVar(&options.Servers, "servers", 1, "servers of a new cluster; of three, one may fail")
	flags.IntVar(&options.Workers, "workers", options.Workers, "worker nodes of a new cluster; 0 lets pods run on the servers")
	flags.BoolVar(&options.Demo, "demo", false, "run the demo application")
	flags.StringArrayVar(&options.ServerArgs, "server-arg", nil, "further flag of a new cluster's keelson server, as --flag=value; may be repeated")
	flags.StringArrayVar(&options.AgentArgs, "agent-arg", nil, "the same for keelson agent")
	flags.BoolVar(&options.Routed, "routed", false, "a new cluster's nodes share no link: the machine is a router between them")
	flags.StringToStringVar(&options.Upstreams, "upstream", nil,
		"REGISTRY=HOST[:PORT] from which a new cluster fetches the images of that registry; may be repeated")
	flags.StringSliceVar(&options.Etcd.Servers, etcdFlags[0].name, nil, etcdFlags[0].usage)
	for i, file := range []*string{&options.Etcd.CAFile, &options.Etcd.CertFile, &options.Etcd.KeyFile} {
		flags.StringVar(file, etcdFlags[i+1].name, "", etcdFlags[i+1].usage)
	}
	addServingFlags(flags, &options)
	return command
}

// addServingFlags adds the flags of all commands that return when a cluster serves.
func addServingFlags(flags *pflag.FlagSet, options *cluster.Options) {
	flags.DurationVar(&options.Timeout, "timeout", options.Timeout, "how long to wait until the cluster serves")
	flags.StringVar(&options.Kubeconfig, "kubeconfig", options.Kubeconfig, "file that gets the cluster's context; empty for none")
}

// fill sets the options that no flag sets.
func fill(options *cluster.Options, name string) (err error) {
	options.Name, options.Step = name, steps()
	options.Bundle, err = bundleDir()
	return err
}

// isUp tells how to use a cluster that came up without an error.
func isUp(options cluster.Options, c *cluster.Cluster, err error) error {
	if err == nil {
		options.Step("cluster %s is up: kubectl --context %s get nodes", c.Name, c.Name)
	}
	return err
}

func downCommand(name *string) *cobra.Command {
	var keep bool
	path := kubeconfig.UserPath()
	command := &cobra.Command{
		Use:   "down",
		Short: "End a cluster and remove all that it had",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			err := withCluster(*name, func(c *cluster.Cluster) error {
				return c.Down(command.Context(), keep, path)
			})
			if errors.Is(err, cluster.ErrNotFound) {
				fmt.Fprintln(os.Stderr, err)
				return nil
			}
			return err
		},
	}
	command.Flags().BoolVar(&keep, "keep", false, "keep the data: keelson up brings the same cluster back")
	command.Flags().StringVar(&path, "kubeconfig", path, "file that the cluster's context is removed from")
	return command
}
