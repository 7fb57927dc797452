// Command keelson is everything in one binary: it makes clusters on this machine, runs their servers and agents, and carries a
// kubectl. Each subcommand stands in a file of its own; what it does stands in the package that it calls.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"keelson.dev/lab/cluster"
)

func main() {
	// Where plain su has made somebody root, PATH lacks the folders of nft and its like.
	if err := os.Setenv("PATH", strings.TrimPrefix(os.Getenv("PATH")+":/usr/sbin:/sbin", ":")); err != nil {
		panic(err) // the name is right
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "keelson:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func root() *cobra.Command {
	name := cluster.DefaultName
	command := &cobra.Command{
		Use:              "keelson",
		Short:            "Kubernetes, rebuilt small: a whole cluster on one machine",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true, // kubectl parses its own flags; ours stand before it
	}
	command.PersistentFlags().StringVar(&name, "name", name, "the cluster that is meant")
	command.AddCommand(
		upCommand(&name), downCommand(&name), upgradeCommand(&name), statusCommand(&name), nodeCommand(&name), imageCommand(&name), addonCommand(&name),
		kubectlCommand(&name), whyCommand(&name), snapshotCommand(&name), doctorCommand(&name), faultCommand(&name), tokenCommand(&name),
		serverCommand(), agentCommand(), hollowCommand(), registryCommand(&name), balancerCommand(&name),
	)
	return command
}

// bundleDir is the folder of this binary: the programs that nodes run lie beside it.
func bundleDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own folder: %w", err)
	}
	self, err = filepath.EvalSymlinks(self)
	if err != nil {
		return "", fmt.Errorf("find own folder: %w", err)
	}
	return filepath.Dir(self), nil
}

// withCluster opens the named cluster, locked, for f.
func withCluster(name string, f func(*cluster.Cluster) error) error {
	return opened(name, cluster.Open, f)
}

// viewCluster opens the named cluster for reading.
func viewCluster(name string, f func(*cluster.Cluster) error) error {
	return opened(name, cluster.View, f)
}

func opened(name string, open func(name, bundle string) (*cluster.Cluster, error), f func(*cluster.Cluster) error) error {
	bundle, err := bundleDir()
	if err != nil {
		return err
	}
	c, err := open(name, bundle)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}
