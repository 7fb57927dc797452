// Command bench measures controller managers side by side: ours and upstream's on our API server, with our scheduler and hollow nodes.
// Every run has a control plane of its own, in processes of their own, on loopback; runs of one case alternate between the two, so that
// noise of the machine meets both.
//
//	make bench-controllers
//	go run ./controllers/bench -cases deployments -rounds 1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/internal/bench"
)

type settings struct {
	bench.Programs
	cases, managers []string
	rounds          int
	scale           float64
	timeout         time.Duration
	logs            string
}

func main() { bench.Main(run) }

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	ours := flags.String("bin", "bin", "folder of our programs")
	upstream := flags.String("upstream", "bin/upstream", "folder of upstream's kube-controller-manager")
	flags.IntVar(&s.rounds, "rounds", 3, "runs of each figure; the table has medians")
	flags.Float64Var(&s.scale, "scale", 1, "size of every case, as a part of what its name says")
	flags.DurationVar(&s.timeout, "timeout", 15*time.Minute, "bound of one run")
	flags.StringVar(&s.logs, "logs", "", "folder for the logs of the last runs; empty: none are kept")
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	chosen := flags.String("cases", strings.Join(names, ","), "what to run")
	managers := flags.String("managers", bench.Keelson+","+bench.Upstream, "whose controller managers")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	s.cases, s.managers = strings.Split(*chosen, ","), strings.Split(*managers, ",")
	var err, otherErr error
	s.Ours, err = filepath.Abs(*ours)
	s.Upstream, otherErr = filepath.Abs(*upstream)
	return s, errors.Join(err, otherErr)
}

// result is one run: what the controller manager needed.
type result struct {
	steps           []time.Duration
	cpu             time.Duration
	peak, anonymous int64 // bytes; anonymous: after the step that left most, without what is mapped of files
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	var failures []error
	fmt.Println("| case | step | seconds | upstream | ratio |\n| --- | --- | --- | --- | --- |")
	for _, c := range cases {
		if !slices.Contains(s.cases, c.name) {
			continue
		}
		results := map[string][]result{}
		for round := range s.rounds {
			for _, manager := range bench.Order(round, s.managers) {
				r, err := s.once(ctx, c, manager)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					failures = append(failures, fmt.Errorf("%s, %s: %w", c.name, manager, err))
					fmt.Fprintln(os.Stderr, failures[len(failures)-1])
					continue
				}
				results[manager] = append(results[manager], r)
			}
		}
		c.print(results)
	}
	return errors.Join(failures...)
}

// print prints the medians of a case: its steps, and what the managers used.
func (c benchCase) print(results map[string][]result) {
	row := func(name, unit string, of func(result) float64) {
		ours, theirs := results[bench.Keelson], results[bench.Upstream]
		cells := []string{"", "", ""}
		if len(ours) > 0 {
			cells[0] = fmt.Sprintf("%.1f", bench.Median(ours, of))
		}
		if len(theirs) > 0 {
			cells[1] = fmt.Sprintf("%.1f", bench.Median(theirs, of))
		}
		if len(ours) > 0 && len(theirs) > 0 {
			cells[2] = fmt.Sprintf("%.2f", bench.Median(ours, of)/bench.Median(theirs, of))
		}
		fmt.Printf("| %s | %s%s | %s |\n", c.title, name, unit, strings.Join(cells, " | "))
	}
	for i, step := range c.steps {
		row(step.name, "", func(r result) float64 { return r.steps[i].Seconds() })
	}
	row("CPU time", "", func(r result) float64 { return r.cpu.Seconds() })
	row("peak memory", ", MB", func(r result) float64 { return float64(r.peak) / (1 << 20) })
	row("of it anonymous, after a step", ", MB", func(r result) float64 { return float64(r.anonymous) / (1 << 20) })
}
