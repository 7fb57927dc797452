// Package script runs testscript files against a cluster: each script gets a namespace of its own, a kubectl that means it, and
// commands that wait for what a cluster does by itself.
package script

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for what the cluster does by itself.
const patience = 180 * time.Second

// Cluster is what scripts run against.
type Cluster struct {
	Kubeconfig string
	// Kubectl is the shell command that stands for kubectl.
	Kubectl string
	// Programs are further programs that scripts find in their path, as shell scripts by name.
	Programs map[string]string
	// Env is added to the environment of the scripts.
	Env map[string]string
	// Commands are added to those of this package.
	Commands map[string]func(*testscript.TestScript, bool, []string)
	// Golden is the folder of the archives that the command "held" compares with, or writes, if TakeGolden is set.
	Golden     string
	TakeGolden bool
}

// Run runs the scripts that params name, side by side.
func (c Cluster) Run(t *testing.T, params testscript.Params) {
	params.Setup = c.setup
	params.Cmds = maps.Clone(commands)
	params.Cmds["held"] = c.held
	for name := range c.Programs {
		params.Cmds[name] = program(name)
	}
	maps.Copy(params.Cmds, c.Commands)
	if deadline, ok := t.Deadline(); ok {
		params.Deadline = deadline
	}
	testscript.RunT(brief{t}, params)
}

// setup gives a script a namespace, $NS, and puts its programs where also the shells that it starts find them.
func (c Cluster) setup(env *testscript.Env) error {
	name := strings.TrimPrefix(strings.ToLower(filepath.Base(env.WorkDir)), "script-")
	namespace := fmt.Sprintf("e2e-%s-%d", strings.NewReplacer("_", "-", ".", "-").Replace(name), time.Now().UnixNano()%100000)
	bin := filepath.Join(env.WorkDir, ".bin")
	if err := os.MkdirAll(bin, 0o755); err != nil { // a script may have put something there
		return err
	}
	programs := map[string]string{ // completion has to be the first word
		"kubectl": fmt.Sprintf("case \"$1\" in __*) exec %[1]s \"$@\" ;; esac\nexec %[1]s --namespace %[2]s \"$@\"", c.Kubectl, namespace),
	}
	maps.Copy(programs, c.Programs)
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil { //nolint:gosec // a program
			return err
		}
	}
	env.Setenv("NS", namespace)
	env.Setenv("KUBECONFIG", c.Kubeconfig)
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, value := range c.Env {
		env.Setenv(name, value)
	}
	if err := c.kubectl("create", "namespace", namespace); err != nil {
		return err
	}
	env.Defer(func() { _ = c.kubectl("delete", "namespace", namespace, "--wait=false") })
	return nil
}

func (c Cluster) kubectl(args ...string) error {
	command := exec.CommandContext(context.Background(), "/bin/sh", append([]string{"-c", "exec " + c.Kubectl + ` "$@"`, "kubectl"}, args...)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// eventually repeats what fails until it succeeds or patience ends.
func eventually(ts *testscript.TestScript, try func(context.Context) error) {
	if err := within(patience, try); err != nil {
		ts.Fatalf("not within %s: %v", patience, err)
	}
}

// within repeats what fails until it succeeds or the time is over; then it returns the last error.
func within(long time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	last := errors.New("not tried")
	for ctx.Err() == nil {
		if err := try(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return last
}
