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
	"k8s.io/component-base/config/options"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/features"
	"keelson.dev/internal/heap"
	"keelson.dev/internal/leadership"
	"keelson.dev/scheduler"
)

// gcPercent is lower than Go's 100: with it a scheduler takes a tenth less memory, and no CPU time that could be measured.
const gcPercent = 50

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
			if named, err := scheduler.Kubeconfig(cfg.ConfigFile); err != nil {
				return err
			} else if named != "" && !cmd.Flags().Changed("kubeconfig") {
				kubeconfig = named
			}
			restConfig, err := apiclient.FromKubeconfig(kubeconfig, "scheduler")
			if err != nil {
				return err
			}
			cfg.RESTConfig = restConfig
			heap.Percent(gcPercent)
			return scheduler.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/scheduler.conf", "kubeconfig of the API server")
	flags.StringVar(&cfg.ConfigFile, "config", "", "KubeSchedulerConfiguration file")
	cfg.Leader = leadership.Defaults(scheduler.LeaseName)
	options.BindLeaderElectionFlags(&cfg.Leader, flags)
	flags.StringVar(&cfg.Identity, "leader-elect-identity", "", "name in the Lease; empty: the host name and a random part")
	cfg.Serving.AddFlags(flags, 10259)
	features.AddFlags(flags)
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	flags.AddGoFlag(logging.Lookup("v"))
	return cmd
}
