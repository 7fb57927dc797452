package main

import (
	"errors"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"keelson.dev/lab/cluster"
)

// kubectlCommand is upstream's kubectl, pointed at the cluster unless the user says otherwise.
func kubectlCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", Short: "The kubectl of this version, pointed at the cluster", DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			err := viewCluster(*name, func(c *cluster.Cluster) error {
				return runKubectl(command, c.KubeconfigPath(), args)
			})
			if errors.Is(err, cluster.ErrNotFound) { // then it is a kubectl like any other
				return runKubectl(command, "", args)
			}
			return err
		},
	}
}

func runKubectl(command *cobra.Command, kubeconfig string, args []string) error {
	signal.Reset(unix.SIGTERM, unix.SIGINT) // kubectl ends with them, or handles them itself
	configFlags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	if kubeconfig != "" {
		configFlags.KubeConfig = &kubeconfig
	}
	inner := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler([]string{"kubectl"}),
		Arguments:     append([]string{"kubectl"}, args...),
		ConfigFlags:   configFlags,
		IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	inner.SetArgs(args)
	inner.SilenceUsage, inner.SilenceErrors = true, true
	return inner.ExecuteContext(command.Context())
}
