//go:build e2e

// Package e2e proves a whole cluster from outside, as its users meet it: scripts of kubectl and keelson commands below
// testdata/script, each in a namespace of its own, run with every kubectl that is at hand.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	clusterName = flag.String("cluster", "ci", "name of the cluster that the tests make and remove")
	keep        = flag.Bool("keep", false, "use the cluster if it is there, and leave it running")
)

// keelson is the binary under test.
var keelson string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	keelson = filepath.Join(bin, "keelson")
	if !*keep {
		_ = command("down").Run() // of a run that was killed
		defer command("down").Run()
	}
	up := command("up", "--workers", "2", "--demo", "--kubeconfig", "")
	up.Stderr = os.Stderr
	if err := up.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster for the tests:", err)
		return 1
	}
	return m.Run()
}

func command(args ...string) *exec.Cmd {
	return exec.Command(keelson, append([]string{"--name", *clusterName}, args...)...)
}

func kubeconfig() string {
	home := os.Getenv("KEELSON_HOME")
	if home == "" {
		home = "/var/lib/keelson"
	}
	return filepath.Join(home, "clusters", *clusterName, "kubeconfig")
}

// clients are the kubectls that run the scripts: the one on the machine, if any, and the one built in.
func clients() map[string][]string {
	all := map[string][]string{"BuiltIn": {keelson, "--name", *clusterName, "kubectl"}}
	if path, err := exec.LookPath("kubectl"); err == nil {
		all["OnMachine"] = []string{path, "--kubeconfig", kubeconfig()}
	}
	return all
}

// TestKubectl runs every script of testdata/script/kubectl with every kubectl.
func TestKubectl(t *testing.T) {
	for name, client := range clients() {
		t.Run(name, func(t *testing.T) { runScripts(t, "testdata/script/kubectl", client) })
	}
}

// TestCluster runs the scripts that are about the cluster and not about the client.
func TestCluster(t *testing.T) {
	runScripts(t, "testdata/script/cluster", clients()["BuiltIn"])
}

func runScripts(t *testing.T, dir string, client []string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			namespace := "e2e-" + strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(filepath.Base(env.WorkDir)))
			namespace = fmt.Sprintf("%s-%d", strings.TrimPrefix(namespace, "script-"), time.Now().UnixNano()%100000)
			env.Setenv("NS", namespace)
			env.Setenv("KUBECONFIG", kubeconfig())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", filepath.Dir(keelson)+":"+os.Getenv("PATH"))
			if output, err := exec.Command(client[0], append(client[1:], "create", "namespace", namespace)...).CombinedOutput(); err != nil {
				return fmt.Errorf("create namespace: %w: %s", err, output)
			}
			env.Defer(func() {
				_ = exec.Command(client[0], append(client[1:], "delete", "namespace", namespace, "--wait=false")...).Run()
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"kubectl": func(ts *testscript.TestScript, negate bool, args []string) {
				execute(ts, negate, append(append(append([]string{}, client...), "--namespace", ts.Getenv("NS")), args...))
			},
			"keelson": func(ts *testscript.TestScript, negate bool, args []string) {
				execute(ts, negate, append([]string{keelson, "--name", *clusterName}, args...))
			},
			"until": func(ts *testscript.TestScript, negate bool, args []string) { until(ts, negate, args, client) },
		},
	})
}

// execute runs a program and checks whether it succeeds.
func execute(ts *testscript.TestScript, negate bool, args []string) {
	err := ts.Exec(args[0], args[1:]...)
	if err != nil && !negate {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	if err == nil && negate {
		ts.Fatalf("%s: succeeded unexpectedly", strings.Join(args, " "))
	}
}

// until repeats a kubectl command, at most for a minute, until it succeeds and prints what is wanted: until TEXT kubectl-args...
func until(ts *testscript.TestScript, negate bool, args []string, client []string) {
	if negate || len(args) < 2 {
		ts.Fatalf("usage: until TEXT KUBECTL-ARGS...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	full := append(append(append([]string{}, client...), "--namespace", ts.Getenv("NS")), args[1:]...)
	var output []byte
	for {
		output, _ = exec.CommandContext(ctx, full[0], full[1:]...).CombinedOutput()
		if strings.Contains(string(output), args[0]) {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s: no %q within a minute; last:\n%s", strings.Join(full, " "), args[0], output)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
