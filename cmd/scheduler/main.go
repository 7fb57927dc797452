// Command scheduler gives pending pods their nodes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/features"
	"keelson.dev/scheduler"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg scheduler.Config
	var kubeconfig string
	cmd := &cobra.Command{
		Use:           "scheduler",
		Short:         "Give pending pods their nodes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := features.Apply(); err != nil {
				return err
			}
			restConfig, err := apiclient.FromKubeconfig(kubeconfig, "scheduler")
			if err != nil {
				return err
			}
			cfg.RESTConfig = restConfig
			return scheduler.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/scheduler.conf", "kubeconfig of the API server")
	flags.StringVar(&cfg.ConfigFile, "config", "", "KubeSchedulerConfiguration file")
	flags.BoolVar(&cfg.LeaderElect, "leader-elect", true, "wait for the Lease kube-system/kube-scheduler")
	flags.StringVar(&cfg.Identity, "leader-elect-identity", "", "name in the Lease; empty means the host name and a random part")
	cfg.Serving.AddFlags(flags, 10259)
	features.AddFlags(flags)
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	flags.AddGoFlag(logging.Lookup("v"))
	return cmd
}
