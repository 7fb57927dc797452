// Command bench measures node agents side by side, ours and upstream's: each on a cluster of one node of its own, whose other parts
// are the same. Pods are bound when they are made, so that no scheduler counts.
//
//	make bench-kubelet
//	go run ./lab/interop/bench -kubelets keelson -singles 5 -idle 5s
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/internal/bench"
	"keelson.dev/lab/interop"
)

type settings struct {
	bin, logs string
	kubelets  []string
	singles   int
	sizes     []int
	idle      time.Duration
	timeout   time.Duration
}

func main() { bench.Main(run) }

func run(ctx context.Context, args []string) error {
	s := &settings{sizes: []int{20, 100}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder of our programs, with upstream's below")
	kubelets := flags.String("kubelets", bench.Keelson+","+bench.Upstream, "whose node agents")
	flags.IntVar(&s.singles, "singles", 30, "pods that are made one after the other")
	flags.DurationVar(&s.idle, "idle", 15*time.Second, "how long an idle node is measured")
	flags.DurationVar(&s.timeout, "timeout", 10*time.Minute, "bound of one node agent's run")
	flags.StringVar(&s.logs, "logs", "", "folder for the parts' logs; empty: none are kept")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s.kubelets = strings.Split(*kubelets, ",")
	var err error
	if s.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	figures := map[string][]figure{}
	for _, kubelet := range s.kubelets {
		if figures[kubelet], err = s.once(ctx, kubelet); err != nil {
			return fmt.Errorf("%s: %w", kubelet, err)
		}
	}
	printTable(figures[bench.Keelson], figures[bench.Upstream])
	return nil
}

// once measures one node agent.
func (s *settings) once(ctx context.Context, kubelet string) (_ []figure, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	mix := interop.Mix{APIServer: interop.Ours, Controllers: interop.Ours, Scheduler: interop.Ours, Kubelet: interop.Ours, Proxy: interop.Ours, Runtime: interop.Ours}
	if kubelet == bench.Upstream {
		mix.Kubelet = interop.Upstream
	}
	c, err := interop.Start(ctx, s.bin, mix)
	defer func() {
		if s.logs != "" {
			err = errors.Join(err, c.KeepLogs(filepath.Join(s.logs, kubelet)))
		}
		err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
	}()
	if err != nil {
		return nil, err
	}
	r := &node{settings: s}
	if r.client, err = c.Client(); err != nil {
		return nil, err
	}
	if r.pid, err = c.PID("kubelet"); err != nil {
		return nil, err
	}
	err = r.measure(ctx)
	return r.figures, err
}

// figure is one line of the table.
type figure struct {
	name  string
	value float64
}

func printTable(ours, theirs []figure) {
	fmt.Println("| figure | keelson | upstream | ratio |\n| --- | --- | --- | --- |")
	for _, f := range slices.MaxFunc([][]figure{ours, theirs}, func(a, b []figure) int { return len(a) - len(b) }) {
		cells := []string{"", "", ""}
		var values []float64
		for i, list := range [][]figure{ours, theirs} {
			if at := slices.IndexFunc(list, func(other figure) bool { return other.name == f.name }); at >= 0 {
				cells[i] = fmt.Sprintf("%.2f", list[at].value)
				values = append(values, list[at].value)
			}
		}
		if len(values) == 2 && values[1] != 0 {
			cells[2] = fmt.Sprintf("%.2f", values[0]/values[1])
		}
		fmt.Printf("| %s | %s |\n", f.name, strings.Join(cells, " | "))
	}
}
