package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/bench"
)

// benchmark runs the cases on all servers in turn.
type benchmark struct {
	options
	servers []*server
	only    *regexp.Regexp
}

// ignoreExists is for what an earlier case may have prepared.
func ignoreExists(prepare func(context.Context, *server) error) func(context.Context, *server) error {
	return func(ctx context.Context, s *server) error {
		if err := prepare(ctx, s); err != nil && !apierrors.IsAlreadyExists(firstOf(err)) {
			return err
		}
		return nil
	}
}

// firstOf unpacks what errors.Join has packed: all workers fail alike.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}

// memory prints what the servers take at rest, with many pods stored, and with many watches open.
func (b *benchmark) memory(ctx context.Context) error {
	if !b.only.MatchString("memory") {
		return nil
	}
	fmt.Printf("| memory, MB | %s |\n|%s\n", strings.Join(b.columns("%s", "%s anonymous"), " | "), strings.Repeat(" --- |", 1+len(b.columns("", ""))))
	if err := b.memoryRow(ctx, "at rest after the start"); err != nil {
		return err
	}
	for _, s := range b.servers {
		if err := b.store(ctx, s); err != nil {
			return fmt.Errorf("%s: store pods: %w", s.name, err)
		}
	}
	if err := b.memoryRow(ctx, fmt.Sprintf("%d Pods stored", b.stored)); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for _, s := range b.servers {
		err := each(b.workers, b.watches, func(_, i int) error {
			return s.watch(watching, i, metav1.ListOptions{FieldSelector: fmt.Sprintf("metadata.name=idle-%d", i)}, func() {})
		})
		if err != nil {
			return fmt.Errorf("%s: open watches: %w", s.name, err)
		}
	}
	return b.memoryRow(ctx, fmt.Sprintf("and %d idle watches", b.watches))
}

// store creates the many pods, once on each server.
func (b *benchmark) store(ctx context.Context, s *server) error {
	if s.filled {
		return nil
	}
	s.filled = true
	return each(b.workers, b.stored, func(worker, i int) error { return s.create(ctx, worker, "pods", pod(s.newName(), "stored", i)) })
}

// columns names what is shown of each server, and the ratio of the first to the second.
func (b *benchmark) columns(formats ...string) []string {
	var all []string
	for _, format := range formats {
		for _, s := range b.servers {
			all = append(all, strings.ReplaceAll(format, "%s", s.name))
		}
		if len(b.servers) == 2 {
			all = append(all, "ratio")
		}
	}
	return all
}

func (b *benchmark) memoryRow(ctx context.Context, name string) error {
	select {
	case <-time.After(b.rest):
	case <-ctx.Done():
		return ctx.Err()
	}
	var rss, anonymous []float64
	for _, s := range b.servers {
		u, err := bench.UsageOf(s.pids)
		if err != nil {
			return err
		}
		rss, anonymous = append(rss, mb(u.RSS)), append(anonymous, mb(u.Anonymous))
	}
	fmt.Printf("| %s |%s%s\n", name, cells("%.0f", rss), cells("%.0f", anonymous))
	return nil
}

// cells formats a figure of each server, and the ratio if there are two.
func cells(format string, values []float64) string {
	var row strings.Builder
	for _, v := range values {
		if v >= 100 {
			fmt.Fprintf(&row, " %.0f |", v)
			continue
		}
		fmt.Fprintf(&row, " "+format+" |", v)
	}
	if len(values) == 2 {
		fmt.Fprintf(&row, " %.2f |", values[0]/values[1])
	}
	return row.String()
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cases runs every case and prints a line for each.
func (b *benchmark) cases(ctx context.Context) error {
	columns := b.columns("per s, %s", "CPU ms, %s", "p50 ms, %s", "p99 ms, %s")
	fmt.Printf("\n| case | %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", 1+len(columns)))
	for _, c := range b.list() {
		if !b.only.MatchString(c.name) {
			continue
		}
		if err := b.compare(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// compare runs a case on all servers in turn, as many rounds as the options say.
func (b *benchmark) compare(ctx context.Context, c benchCase) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sums := make([]sample, len(b.servers))
	for round := range b.rounds {
		for i, s := range b.servers {
			if round == 0 && c.prepare != nil {
				if err := c.prepare(ctx, s); err != nil {
					return fmt.Errorf("%s: prepare: %w", s.name, err)
				}
			}
			one, err := b.measure(ctx, c, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			sums[i].add(one)
		}
	}
	var rate, cpu, p50, p99 []float64
	for _, sum := range sums {
		slices.Sort(sum.latencies)
		n := len(sum.latencies)
		rate, cpu = append(rate, float64(n)/sum.took.Seconds()), append(cpu, ms(sum.cpu)/float64(n))
		p50, p99 = append(p50, ms(sum.latencies[n/2])), append(p99, ms(sum.latencies[n*99/100]))
	}
	fmt.Printf("| %s |%s%s%s%s\n", c.name, cells("%.1f", rate), cells("%.2f", cpu), cells("%.1f", p50), cells("%.1f", p99))
	return nil
}

// sample is what a round of a case has shown.
type sample struct {
	latencies []time.Duration
	took, cpu time.Duration
}

func (s *sample) add(more sample) {
	s.latencies = append(s.latencies, more.latencies...)
	s.took += more.took
	s.cpu += more.cpu
}

// measure is one round of a case on one server.
func (b *benchmark) measure(ctx context.Context, c benchCase, s *server) (sample, error) {
	workers := c.workers
	if workers == 0 {
		workers = b.workers
	}
	before, err := bench.UsageOf(s.pids)
	if err != nil {
		return sample{}, err
	}
	latencies, errs := make([][]time.Duration, workers), make([]error, workers)
	begin := time.Now()
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := 0; time.Since(begin) < b.duration && ctx.Err() == nil; i++ {
				at := time.Now()
				if errs[w] = c.do(ctx, s, w, i); errs[w] != nil {
					return
				}
				latencies[w] = append(latencies[w], time.Since(at))
			}
		})
	}
	group.Wait()
	one := sample{latencies: slices.Concat(latencies...), took: time.Since(begin)}
	after, err := bench.UsageOf(s.pids)
	if err := errors.Join(append(errs, err, ctx.Err())...); err != nil {
		return sample{}, err
	}
	if one.cpu = after.CPU - before.CPU; len(one.latencies) == 0 {
		return sample{}, errors.New("no operation ended in time")
	}
	return one, nil
}
