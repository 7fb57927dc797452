// Command controller-manager runs all controllers of a cluster. It takes those of kube-controller-manager's flags that mean
// something here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/cli/flag"
	"k8s.io/component-base/config/options"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/version/verflag"

	"keelson.dev/controllers"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/features"
	"keelson.dev/internal/heap"
	"keelson.dev/internal/leadership"
)

// gcPercent is how much the heap grows between two collections. Go's own 100 takes a seventh more anonymous memory, and saves a
// twentieth of the CPU time.
const gcPercent = 60

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controller-manager:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("controller-manager", pflag.ContinueOnError)
	flags.SetNormalizeFunc(flag.WordSepNormalizeFunc)
	var (
		cfg        controllers.Config
		kubeconfig string
	)
	addFlags(flags, &cfg, &kubeconfig)
	logging := logsapi.NewLoggingConfiguration()
	logsapi.AddFlags(logging, flags)
	features.AddFlags(flags)
	verflag.AddFlags(flags)
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	verflag.PrintAndExitIfRequested()
	if err := features.Apply(); err != nil {
		return err
	}
	heap.Percent(gcPercent)
	logs.InitLogs()
	defer logs.FlushLogs()
	if err := logsapi.ValidateAndApply(logging, utilfeature.DefaultFeatureGate); err != nil {
		return fmt.Errorf("logging options: %w", err)
	}
	restConfig, err := apiclient.FromKubeconfig(kubeconfig, "controller-manager")
	if err != nil {
		return err
	}
	cfg.RESTConfig = restConfig
	return controllers.Run(ctx, cfg)
}

func addFlags(flags *pflag.FlagSet, cfg *controllers.Config, kubeconfig *string) {
	flags.StringVar(kubeconfig, "kubeconfig", "", "file with the API server's address and our credentials")
	cfg.Serving.AddFlags(flags, 10257)
	cfg.Leader = leadership.Defaults(controllers.LeaseName)
	options.BindLeaderElectionFlags(&cfg.Leader, flags)
	flags.StringVar(&cfg.ServiceAccountKeyFile, "service-account-private-key-file", "", "key that signs the tokens of service account token secrets")
	flags.StringVar(&cfg.RootCAFile, "root-ca-file", "", "certificates that pods trust the API server by; default: those of the kubeconfig")
	flags.StringVar(&cfg.ClusterSigningCertFile, "cluster-signing-cert-file", "", "CA that signs certificate signing requests")
	flags.StringVar(&cfg.ClusterSigningKeyFile, "cluster-signing-key-file", "", "key of that CA")
	flags.DurationVar(&cfg.ClusterSigningDuration, "cluster-signing-duration", 0, "longest life of signed certificates (default 8760h)")
	flags.StringSliceVar(&cfg.ClusterCIDRs, "cluster-cidr", nil, "pod ranges out of which nodes get theirs")
	flags.StringSliceVar(&cfg.ServiceCIDRs, "service-cluster-ip-range", nil, "service ranges, which no node gets")
	flags.IntVar(&cfg.NodeCIDRMaskSize, "node-cidr-mask-size-ipv4", 0, "bits of a node's IPv4 range (default 24)")
	flags.IntVar(&cfg.NodeCIDRMaskSizeIPv6, "node-cidr-mask-size-ipv6", 0, "bits of a node's IPv6 range (default 64)")
	flags.DurationVar(&cfg.NodeMonitorGracePeriod, "node-monitor-grace-period", 0, "silence of a node until it is marked unknown (default 50s)")
	flags.BoolVar(&cfg.UseServiceAccountCredentials, "use-service-account-credentials", false, "act with each controller as a service account of its own")
	flags.StringSliceVar(&cfg.Controllers, "controllers", []string{"*"}, "controllers to run: * for all, -name for all but that one")
	flags.StringVar(&cfg.LoadBalancerCIDR, "load-balancer-cidr", "", "free range of the nodes' network for Services of type LoadBalancer")
	flags.IntVar(&cfg.TerminatedPodGCThreshold, "terminated-pod-gc-threshold", 0, "finished pods that may stay (default 12500)")
}
