// Command bench drives API servers through what clusters do most, and prints throughput, latency, and what each operation cost the
// server in CPU time and memory.
//
//	go run ./apiserver/bench                                  ours and upstream's with the same configuration, side by side
//	go run ./apiserver/bench --kubeconfig F --pid 123,124     any server; the processes are those of the server and of its etcd
//
// Side by side, each case runs on one server, then on the other, and again: what else the machine does hits both.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"keelson.dev/internal/apiclient"
)

type options struct {
	kubeconfig string
	pids       []int
	bin        string
	other      string
	oursFlags  []string
	only       string

	workers  int
	rounds   int
	starts   int
	duration time.Duration
	rest     time.Duration
	listed   int
	stored   int
	watches  int
	fanOut   []int
}

func main() {
	o := options{}
	flags := pflag.NewFlagSet("bench", pflag.ExitOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "The cluster to measure; empty: ours and upstream's, side by side.")
	flags.IntSliceVar(&o.pids, "pid", nil, "With --kubeconfig: process of the server, and of its etcd.")
	flags.StringVar(&o.bin, "bin", "bin", "Folder of apiserver and upstream/{kube-apiserver,etcd}, for side by side.")
	flags.StringVar(&o.other, "other", "", "Another build of our API server that takes upstream's place side by side.")
	flags.StringArrayVar(&o.oursFlags, "flag", nil, "Further flag of our API server, for side by side.")
	flags.StringVar(&o.only, "only", "", "Regular expression: which cases run.")
	flags.IntVar(&o.workers, "workers", 32, "Concurrent clients.")
	flags.IntVar(&o.rounds, "rounds", 3, "How often each case runs on each server.")
	flags.IntVar(&o.starts, "starts", 3, "How often each server is started on an empty folder, for the time until it is ready.")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "How long one round of a case takes.")
	flags.DurationVar(&o.rest, "rest", 30*time.Second, "Rest before memory is read.")
	flags.IntVar(&o.listed, "listed", 1000, "Pods in a list.")
	flags.IntVar(&o.stored, "stored", 30000, "Pods stored while memory is read and cases run.")
	flags.IntVar(&o.watches, "watches", 10000, "Idle watches while memory is read.")
	flags.IntSliceVar(&o.fanOut, "fan-out", []int{100, 1000}, "Watchers that each event goes to.")
	_ = flags.Parse(os.Args[1:]) // ExitOnError
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	var servers []*server
	if o.kubeconfig != "" {
		config, err := apiclient.FromKubeconfig(o.kubeconfig, "bench")
		if err != nil {
			return err
		}
		servers = []*server{{name: "server", pids: o.pids, config: config}}
	} else {
		pair, err := newPair(o)
		if err != nil {
			return err
		}
		defer pair.close()
		if servers, err = pair.start(ctx); err != nil {
			return err
		}
	}
	for _, s := range servers {
		if err := s.setUp(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer s.tearDown() //nolint:contextcheck // also after an interrupt
	}
	b := &benchmark{options: o, servers: servers, only: only}
	if err := b.memory(ctx); err != nil {
		return err
	}
	return b.cases(ctx)
}
