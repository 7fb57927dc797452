// Command bench measures what a user waits for and what a cluster costs: docs/performance.md holds its table. Every figure is the
// median of several runs; the machine should be idle.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	b := &bench{name: "bench"}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built programs")
	flag.IntVar(&b.runs, "runs", 5, "runs of each figure")
	flag.DurationVar(&b.settle, "settle", 60*time.Second, "how long the cluster rests before its memory is read")
	flag.Parse()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

type bench struct {
	name, bin string
	runs      int
	settle    time.Duration
	rows      []row
}

// row is a line of the table: a figure with its runs, sorted.
type row struct {
	what   string
	values []float64
	unit   string
}

func (b *bench) run(ctx context.Context) error {
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return err
	}
	b.bin = bin
	defer b.keelson(context.WithoutCancel(ctx), "down", "--kubeconfig", "") //nolint:errcheck // nothing more to do
	steps := []func(context.Context) error{b.apiserver, b.startOneNode, b.startThreeNodes, b.pods, b.memory}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	fmt.Println("| figure | median | min | max |\n| --- | --- | --- | --- |")
	for _, r := range b.rows {
		slices.Sort(r.values)
		last := len(r.values) - 1
		fmt.Printf("| %s | %.2f %s | %.2f | %.2f |\n", r.what, r.values[last/2], r.unit, r.values[0], r.values[last])
	}
	return nil
}

func (b *bench) keelson(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, filepath.Join(b.bin, "keelson"), append([]string{"--name", b.name}, args...)...)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("keelson %s: %w: %s", args[0], err, output)
	}
	return nil
}

// record keeps one run of a figure in seconds.
func (b *bench) record(what string, took time.Duration) { b.value(what, took.Seconds(), "s") }

func (b *bench) value(what string, value float64, unit string) {
	fmt.Fprintf(os.Stderr, "%s: %.2f %s\n", what, value, unit)
	for i := range b.rows {
		if b.rows[i].what == what {
			b.rows[i].values = append(b.rows[i].values, value)
			return
		}
	}
	b.rows = append(b.rows, row{what: what, values: []float64{value}, unit: unit})
}

func (b *bench) startOneNode(ctx context.Context) error {
	return b.start(ctx, "keelson up, one node: Ready and DNS answering", "0", true)
}

func (b *bench) startThreeNodes(ctx context.Context) error {
	return b.start(ctx, "keelson up, three nodes: Ready and DNS answering", "2", false)
}

// start measures keelson up; the last cluster stays, unless remove.
func (b *bench) start(ctx context.Context, what, workers string, remove bool) error {
	for range b.runs {
		if err := b.keelson(ctx, "down", "--kubeconfig", ""); err != nil {
			return err
		}
		began := time.Now()
		if err := b.keelson(ctx, "up", "--workers", workers, "--kubeconfig", ""); err != nil {
			return err
		}
		b.record(what, time.Since(began))
	}
	if remove {
		return b.keelson(ctx, "down", "--kubeconfig", "")
	}
	return nil
}
