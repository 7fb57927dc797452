package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clusterName is the cluster that the harness makes when none is given.
const clusterName = "conformance"

// harness is one invocation.
type harness struct {
	focus, skip, test   string
	procs, count        int
	seed                string
	kubeconfig, kubectl string
	bin, out            string
	passingFile         string
	serverArg           string
	keep, made          bool
	timeout             time.Duration
}

// ensureCluster makes a cluster unless one is given, and gives its nodes the images of the suite.
func (h *harness) ensureCluster(ctx context.Context) error {
	if h.kubeconfig != "" {
		return nil
	}
	h.made = true
	up := []string{"up", "--workers", "2", "--kubeconfig", ""}
	if h.serverArg != "" {
		up = append(up, "--server-arg="+h.serverArg)
	}
	if err := h.keelson(ctx, up...); err != nil {
		return err
	}
	if err := h.keelson(ctx, "image", "load", filepath.Join(h.bin, "conformance", "images")); err != nil {
		return err
	}
	h.kubeconfig = filepath.Join(h.stateDir(), "kubeconfig")
	return nil
}

func (h *harness) removeCluster() {
	if h.made && !h.keep {
		if err := h.keelson(context.Background(), "down", "--kubeconfig", ""); err != nil {
			fmt.Fprintln(os.Stderr, "remove cluster:", err)
		}
	}
}

// stateDir is where the made cluster keeps its files.
func (h *harness) stateDir() string {
	home := os.Getenv("KEELSON_HOME")
	if home == "" {
		home = "/var/lib/keelson"
	}
	return filepath.Join(home, "clusters", clusterName)
}

func (h *harness) keelson(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, filepath.Join(h.bin, "keelson"), append(args, "--name", clusterName)...)
	command.Stdout, command.Stderr = io.Discard, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("keelson %s: %w", args[0], err)
	}
	return nil
}

// pass is one run of the suite's runner.
type pass struct {
	name        string // of its folder of results
	focus, skip string
	procs       int
	expected    int // tests, for the progress line
}

// execute runs one pass and returns its results. Failed tests are results, not errors.
func (h *harness) execute(ctx context.Context, p pass) ([]result, error) {
	dir := filepath.Join(h.out, p.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "e2e.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	args := []string{
		"--no-color", "-v", "--procs=" + strconv.Itoa(p.procs), "--focus=" + p.focus, "--timeout=" + h.timeout.String(), "--keep-going",
	}
	if p.skip != "" {
		args = append(args, "--skip="+p.skip)
	}
	args = append(args, filepath.Join(h.bin, "conformance", "e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+h.kubeconfig, "--kubectl-path="+h.kubectl, "--report-dir="+dir, "--report-complete-junit",
		"--allowed-not-ready-nodes=0", "--num-nodes=2", "--dump-logs-on-failure=false", "--disable-log-dump", "--e2e-output-dir="+dir,
		"--system-pods-startup-timeout=60s", "--non-blocking-taints=node-role.kubernetes.io/control-plane")
	command := exec.CommandContext(ctx, filepath.Join(h.bin, "conformance", "ginkgo"), args...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // it writes its reports before it ends
	command.WaitDelay = 2 * time.Minute
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	command.Stderr = log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the suite: %w", err)
	}
	watchProgress(output, log, p, os.Stderr)
	runErr := command.Wait()
	results, err := readJUnit(filepath.Join(dir, "junit_01.xml"))
	if err != nil {
		return nil, fmt.Errorf("%w (the suite: %v; see %s)", err, runErr, log.Name())
	}
	return results, nil
}

// progressEvery is how often a line is printed when nobody watches a terminal.
const progressEvery = 20 * time.Second

// watchProgress copies the runner's output to the log and prints how far it is. A finished test is a bullet in that output, not
// always at the end of a line.
func watchProgress(output io.Reader, log io.Writer, p pass, to io.Writer) {
	started, printed := time.Now(), time.Now()
	done, failed := 0, 0
	buffer := make([]byte, 64<<10)
	for {
		n, err := output.Read(buffer)
		chunk := string(buffer[:n])
		if _, writeErr := io.WriteString(log, chunk); writeErr != nil {
			fmt.Fprintln(to, "write log:", writeErr)
		}
		done += strings.Count(chunk, "•")
		failed += strings.Count(chunk, "• [FAILED]") + strings.Count(chunk, "• [PANICKED]")
		if err != nil {
			break
		}
		if time.Since(printed) > progressEvery {
			printed = time.Now()
			fmt.Fprintf(to, "%s: %d of %d done, %d failed%s\n", p.name, done, p.expected, failed, timeLeft(started, done, p.expected))
		}
	}
	fmt.Fprintf(to, "%s: %d done, %d failed, in %s\n", p.name, done, failed, time.Since(started).Round(time.Second))
}

func timeLeft(started time.Time, done, expected int) string {
	if done == 0 || expected <= done {
		return ""
	}
	each := time.Since(started) / time.Duration(done)
	return fmt.Sprintf(", about %s left", (each * time.Duration(expected-done)).Round(time.Second))
}

// names lists the tests that a focus selects, without running them.
func (h *harness) names(ctx context.Context, focus, skip string) ([]string, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := []string{"--ginkgo.dry-run", "--ginkgo.focus=" + focus, "--report-dir=" + dir, "--report-complete-junit", "--provider=skeleton"}
	if skip != "" {
		args = append(args, "--ginkgo.skip="+skip)
	}
	command := exec.CommandContext(ctx, filepath.Join(h.bin, "conformance", "e2e.test"), args...)
	if output, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("list tests: %w: %s", err, output)
	}
	results, err := readJUnit(filepath.Join(dir, "junit_01.xml"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range results {
		if r.status != skipped {
			names = append(names, r.name)
		}
	}
	return names, nil
}
