// Command bench measures service proxies side by side: ours, and upstream's kube-proxy in nftables mode, with the same configuration on
// our API server. Every run has a network namespace of its own, which is the node: with the control plane, the proxy, a pod that answers
// at the address of every endpoint, and a pod that asks. Runs of one size alternate between the two proxies, so that noise of the
// machine meets both. It needs root.
//
//	make bench-proxy
//	go run ./proxy-lite/bench -sizes 100x5 -rounds 1
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/internal/bench"
)

type settings struct {
	bench.Programs
	Changes     int           // of one endpoint, one after the other
	Load        time.Duration // of each kind of requests
	Connections int
	Timeout     time.Duration // of one run
	Logs        string
}

// size is how many Services there are, and how many endpoints each has.
type size struct{ Services, Endpoints int }

func (s size) String() string { return fmt.Sprintf("%d×%d", s.Services, s.Endpoints) }

// task is one run.
type task struct {
	settings
	Size  size
	Whose string
}

func main() {
	bench.Main(func(ctx context.Context, args []string) error {
		switch {
		case len(args) == 2 && args[0] == onceCommand:
			return once(ctx, args[1])
		case len(args) == 1 && args[0] == serveCommand:
			return serve(ctx)
		case len(args) == 1 && args[0] == askCommand:
			return ask(ctx)
		}
		return run(ctx, args)
	})
}

// The names of what the program starts itself as, in namespaces of their own.
const onceCommand, serveCommand, askCommand = "once", "serve", "ask"

// again is this program as another command in a new network namespace. It dies with us.
func again(args ...string) *exec.Cmd {
	command := exec.Command("/proc/self/exe", args...) //nolint:noctx // dies with us
	command.Stderr = os.Stderr
	command.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	return command
}

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	ours := flags.String("bin", "bin", "folder of our programs")
	upstream := flags.String("upstream", "bin/upstream", "folder of upstream's kube-proxy")
	sizes := flags.String("sizes", "100x5,100x50,1000x5,1000x50,10000x5,10000x50", "Services x endpoints of each")
	proxies := flags.String("proxies", bench.Keelson+","+bench.Upstream, "whose proxies")
	rounds := flags.Int("rounds", 3, "runs of each figure; the table has medians")
	flags.IntVar(&s.Changes, "changes", 10, "changes of one endpoint in each run")
	flags.DurationVar(&s.Load, "load", 5*time.Second, "how long requests are sent, on kept connections and then on new ones")
	flags.IntVar(&s.Connections, "connections", 16, "clients at once")
	flags.DurationVar(&s.Timeout, "timeout", 30*time.Minute, "bound of one run")
	flags.StringVar(&s.Logs, "logs", "", "folder for the logs of the last runs; empty: none are kept")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err, otherErr error
	s.Ours, err = filepath.Abs(*ours)
	s.Upstream, otherErr = filepath.Abs(*upstream)
	if err = errors.Join(err, otherErr); err != nil {
		return err
	}
	var failures []error
	fmt.Println("| Services × endpoints | figure | ours | upstream | ratio |\n| --- | --- | --- | --- | --- |")
	for text := range strings.SplitSeq(*sizes, ",") {
		var n size
		if _, err := fmt.Sscanf(text, "%dx%d", &n.Services, &n.Endpoints); err != nil {
			return fmt.Errorf("size %q: %w", text, err)
		}
		results, err := s.rounds(ctx, n, strings.Split(*proxies, ","), *rounds)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failures = append(failures, err)
		printRows(n, results)
	}
	return errors.Join(failures...)
}

// rounds runs one size with each proxy in turn. A run that fails is told and left out.
func (s settings) rounds(ctx context.Context, n size, proxies []string, rounds int) (map[string][]result, error) {
	var failures []error
	results := map[string][]result{}
	for round := range rounds {
		for _, whose := range bench.Order(round, proxies) {
			r, err := (&task{s, n, whose}).inNamespace(ctx)
			if err != nil {
				failures = append(failures, fmt.Errorf("%s, %s: %w", n, whose, err))
				fmt.Fprintln(os.Stderr, failures[len(failures)-1])
				continue
			}
			results[whose] = append(results[whose], r)
		}
	}
	return results, errors.Join(failures...)
}

// inNamespace runs the task in a process of its own.
func (t *task) inNamespace(ctx context.Context) (result, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return result{}, err
	}
	command := again(onceCommand, string(text))
	defer context.AfterFunc(ctx, func() { _ = command.Process.Signal(unix.SIGTERM) })() // it fails only for a process that has ended
	out, err := command.Output()
	if err != nil {
		return result{}, err
	}
	var r result
	return r, json.Unmarshal(out, &r)
}

func printRows(n size, results map[string][]result) {
	for _, f := range figures {
		var cells [3]string
		var medians []float64
		for i, whose := range []string{bench.Keelson, bench.Upstream} {
			if runs := results[whose]; len(runs) > 0 {
				medians = append(medians, bench.Median(runs, f.of))
				cells[i] = fmt.Sprintf("%.*f", f.decimals, medians[len(medians)-1])
			}
		}
		if len(medians) == 2 && medians[1] != 0 {
			cells[2] = fmt.Sprintf("%.2f", medians[0]/medians[1])
		}
		fmt.Printf("| %s | %s | %s |\n", n, f.name, strings.Join(cells[:], " | "))
	}
}
