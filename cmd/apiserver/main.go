// Command apiserver serves the Kubernetes API. It takes kube-apiserver's flags; without --etcd-servers it brings its own etcd.
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
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/version/verflag"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/features"
	"keelson.dev/internal/heap"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

// parse reads the command line, and the file that it may name.
func parse(args []string) (*server.Options, *logsapi.LoggingConfiguration, error) {
	flags := pflag.NewFlagSet("apiserver", pflag.ContinueOnError)
	flags.SetNormalizeFunc(flag.WordSepNormalizeFunc)
	options := server.NewOptions()
	options.AddFlags(flags)
	logging := logsapi.NewLoggingConfiguration()
	logsapi.AddFlags(logging, flags)
	verflag.AddFlags(flags)
	config := flags.String("config", "", "File with values of these flags ("+configKind+"); the command line wins over it.")
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	if rest := flags.Args(); len(rest) > 0 {
		return nil, nil, fmt.Errorf("apiserver does not take any arguments, got %q", rest)
	}
	if *config != "" {
		if err := readConfig(*config, flags); err != nil {
			return nil, nil, err
		}
	}
	return options, logging, features.Apply()
}

func run(ctx context.Context, args []string) error {
	options, logging, err := parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	verflag.PrintAndExitIfRequested()
	logs.InitLogs()
	defer logs.FlushLogs()
	if err := logsapi.ValidateAndApply(logging, utilfeature.DefaultFeatureGate); err != nil {
		return fmt.Errorf("logging options: %w", err)
	}
	heap.Keep(ctx, 64<<20)
	return server.Run(ctx, options)
}
