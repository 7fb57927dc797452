// Command conformance runs upstream's e2e suite against a cluster and keeps score: run, ratchet, slice, certify and why, as
// README.md describes. It is a harness only: the suite, its images and its runner are built beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// conformanceFocus selects the tests that make a cluster a conformant one.
const conformanceFocus = `\[Conformance\]`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		stop()
		os.Exit(1)
	}
}

// actions are what the harness does, by name.
var actions = map[string]func(*harness, context.Context) error{
	"run":     (*harness).runAll,
	"ratchet": (*harness).ratchet,
	"slice":   (*harness).slice,
	"certify": (*harness).certify,
	"why":     (*harness).why,
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: conformance run|ratchet|slice|certify|why [flags]")
	}
	command, known := actions[args[0]]
	if !known {
		return fmt.Errorf("unknown command %q: use run, ratchet, slice, certify or why", args[0])
	}
	h := &harness{}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&h.focus, "focus", conformanceFocus, "regular expression of the tests to run")
	flags.StringVar(&h.skip, "skip", "", "regular expression of tests to leave out")
	flags.StringVar(&h.test, "test", "", "why: part of the name of the one test to look into")
	flags.IntVar(&h.procs, "procs", 4, "tests that run at the same time, serial ones apart")
	flags.IntVar(&h.count, "count", 60, "slice: how many tests")
	flags.StringVar(&h.seed, "seed", "", "slice: what rotates the choice, such as a commit")
	flags.StringVar(&h.kubeconfig, "kubeconfig", "", "cluster to test; empty: one that is made, and removed afterwards")
	flags.StringVar(&h.kubectl, "kubectl", "", "kubectl for the tests of the command line; empty: the suite's own version, in bin/conformance")
	flags.StringVar(&h.bin, "bin", "../bin", "folder of the built programs")
	flags.StringVar(&h.out, "out", "", "folder of the results; empty: below bin")
	flags.StringVar(&h.passingFile, "passing", "passing.txt", "list of the tests that pass")
	flags.StringVar(&h.serverArg, "server-arg", "", "further flag of the made cluster's server, such as --controllers=*,-replicaset")
	flags.BoolVar(&h.keep, "keep", false, "leave the cluster that was made running")
	flags.DurationVar(&h.timeout, "timeout", 4*time.Hour, "how long the whole may take")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if h.out == "" {
		h.out = filepath.Join(h.bin, "conformance", "results", time.Now().UTC().Format("20060102-150405")+"-"+args[0])
	}
	if h.kubectl == "" {
		h.kubectl = filepath.Join(h.bin, "conformance", "kubectl")
	}
	for _, dir := range []*string{&h.bin, &h.out, &h.kubectl} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = absolute
	}
	if err := os.MkdirAll(h.out, 0o755); err != nil {
		return fmt.Errorf("make folder of results: %w", err)
	}
	if err := h.ensureCluster(ctx); err != nil {
		return err
	}
	defer h.removeCluster()
	return command(h, ctx)
}
