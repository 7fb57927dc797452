// Command bench measures schedulers side by side: ours and upstream's on the same kube-apiserver, and ours on our own API server, with
// the workloads of upstream's scheduler_perf at several sizes. Every run has a control plane of its own, in processes of their own, on
// loopback; runs of one case alternate between the combinations, so that noise of the machine meets all.
//
//	make bench-scheduler
//	go run ./scheduler/bench -cases basic,spread -nodes 100 -rounds 1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keelson.dev/internal/bench"
)

// combination is what schedules, and on which API server.
type combination struct{ api, scheduler string }

var combinations = map[string]combination{
	"upstream":  {"upstream", "upstream"}, // kube-apiserver, etcd, kube-scheduler
	"scheduler": {"upstream", "keelson"},  // our scheduler in its place
	"stack":     {"keelson", "keelson"},   // all ours
}

type settings struct {
	bench.Programs
	cases, combos []string
	sizes         []int
	rounds, pods  int
	timeout       time.Duration
	logs          string
}

func main() { bench.Main(run) }

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.Ours, "bin", "bin", "folder of our apiserver and scheduler")
	flags.StringVar(&s.Upstream, "upstream", "bin/upstream", "folder of upstream's etcd, kube-apiserver and kube-scheduler")
	flags.IntVar(&s.rounds, "rounds", 3, "runs of each figure; the table has medians")
	flags.IntVar(&s.pods, "pods", 1000, "pods that are measured, where the case has no number of its own")
	flags.DurationVar(&s.timeout, "timeout", 5*time.Minute, "bound of one run")
	flags.StringVar(&s.logs, "logs", "", "folder for the logs of the last run of each combination; empty: none are kept")
	cases := flags.String("cases", strings.Join(names(), ","), "workloads to run")
	sizes := flags.String("nodes", "100,1000,5000", "sizes of the cluster")
	combos := flags.String("combinations", "upstream,scheduler,stack", "upstream: all upstream's; scheduler: ours on upstream's kube-apiserver; stack: all ours")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	s.cases, s.combos = strings.Split(*cases, ","), strings.Split(*combos, ",")
	for _, name := range s.cases {
		if _, ok := find(name); !ok {
			return nil, fmt.Errorf("case %q is unknown; there are %s", name, strings.Join(names(), ", "))
		}
	}
	for _, name := range s.combos {
		if _, ok := combinations[name]; !ok {
			return nil, fmt.Errorf("combination %q is unknown", name)
		}
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-nodes: %q is no size", text)
		}
		s.sizes = append(s.sizes, n)
	}
	for _, dir := range []*string{&s.Ours, &s.Upstream} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return nil, err
		}
		*dir = absolute
	}
	return s, nil
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	var failures []error
	printHeader(os.Stdout)
	for _, size := range s.sizes {
		for _, name := range s.cases {
			w, _ := find(name)
			if w.largest > 0 && size > w.largest {
				continue
			}
			results := map[string][]result{}
			for round := range s.rounds {
				for _, combo := range bench.Order(round, s.combos) {
					r, err := s.once(ctx, w, size, combo)
					if ctx.Err() != nil {
						return ctx.Err()
					}
					if err != nil {
						failures = append(failures, fmt.Errorf("%s, %d nodes, %s: %w", name, size, combo, err))
						fmt.Fprintln(os.Stderr, failures[len(failures)-1])
						continue
					}
					results[combo] = append(results[combo], r)
				}
			}
			for _, combo := range s.combos {
				printRow(os.Stdout, name, size, combo, results[combo])
			}
		}
	}
	return errors.Join(failures...)
}
