// Command apiserver serves the Kubernetes API. It takes kube-apiserver's flags; without --etcd-servers it brings its own etcd.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/version/verflag"

	"keelson.dev/apiserver/server"
)

// gcPercent trades memory for CPU: the live heap is small, so a collection at half its growth is cheap.
const gcPercent = 75

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	flags := pflag.NewFlagSet("apiserver", pflag.ContinueOnError)
	flags.SetNormalizeFunc(flag.WordSepNormalizeFunc)
	options := server.NewOptions()
	options.AddFlags(flags)
	logging := logsapi.NewLoggingConfiguration()
	logsapi.AddFlags(logging, flags)
	verflag.AddFlags(flags)
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	verflag.PrintAndExitIfRequested()
	logs.InitLogs()
	defer logs.FlushLogs()
	if err := logsapi.ValidateAndApply(logging, nil); err != nil {
		return fmt.Errorf("logging options: %w", err)
	}
	return server.Run(ctx, options)
}
