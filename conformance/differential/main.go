// Command differential holds Keelson's API server beside upstream's: it starts both with the same flags, sends both the same
// requests and reports every difference between the answers that accepted.yaml does not explain. README.md describes it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "differential:", err)
		stop()
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	upstream, etcd, ours string
	testdata, accepted   string
	out                  string
	kinds, stages        *regexp.Regexp
	workers              int
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("differential", flag.ContinueOnError)
	bin := flags.String("bin", "../bin", "folder of the built programs")
	flags.StringVar(&s.ours, "apiserver", "", "our API server; empty: the one in -bin")
	flags.StringVar(&s.testdata, "testdata", "differential/testdata", "folder of the seed objects")
	flags.StringVar(&s.accepted, "accepted", "differential/accepted.yaml", "list of accepted differences")
	flags.StringVar(&s.out, "out", "", "folder of the report and the servers' logs; empty: below -bin")
	flags.IntVar(&s.workers, "workers", 4, "requests at the same time")
	kinds := flags.String("kinds", "", "regular expression of the seeds to use: their files or kinds")
	stages := flags.String("stages", "", "regular expression of the stages to run: surface, requests, subresources, create, update, status, tables")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	s.upstream, s.etcd = filepath.Join(*bin, "upstream/kube-apiserver"), filepath.Join(*bin, "upstream/etcd")
	if s.ours == "" {
		s.ours = filepath.Join(*bin, "apiserver")
	}
	if s.out == "" {
		s.out = filepath.Join(*bin, "conformance/differential")
	}
	var err, err2 error
	s.kinds, err = regexp.Compile(*kinds)
	s.stages, err2 = regexp.Compile(*stages)
	return s, errors.Join(err, err2)
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	seeds, err := readSeeds(s.testdata, s.kinds)
	if err != nil {
		return err
	}
	accepted, err := readAccepted(s.accepted)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	servers, err := startServers(ctx, s)
	if err != nil {
		return err
	}
	defer servers.stop()
	report := &report{accepted: accepted}
	begin := time.Now()
	c := &comparison{pair: servers.pair, report: report, seeds: seeds, workers: s.workers}
	err = c.run(ctx, s.stages)
	whole := err == nil && s.kinds.String() == "" && s.stages.String() == ""
	return errors.Join(err, report.finish(s.out, time.Since(begin), whole))
}
