//go:build interop

package interop

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

	"keelson.dev/lab/e2e/script"
)

var take = flag.Bool("take", false, "take the outputs of kubectl on upstream's cluster as those that lab/e2e wants")

// mixes are the clusters. The first one holds the expectations against upstream itself.
var mixes = []struct {
	name string
	Mix
}{
	{"AllUpstream", Mix{Upstream, Upstream, Upstream, Upstream, Upstream, Ours}},
	{"OurAPIServer", Mix{Ours, Upstream, Upstream, Upstream, Upstream, Ours}},
	{"OurControllers", Mix{Upstream, Ours, Upstream, Upstream, Upstream, Ours}},
	{"OurScheduler", Mix{Upstream, Upstream, Ours, Upstream, Upstream, Ours}},
	{"OurKubelet", Mix{Upstream, Upstream, Upstream, Ours, Upstream, Ours}},
	{"OurProxy", Mix{Upstream, Upstream, Upstream, Upstream, Ours, Ours}},
	{"AllOurs", Mix{Ours, Ours, Ours, Ours, Ours, Ours}},
	{"UpstreamAPIServer", Mix{Upstream, Ours, Ours, Ours, Ours, Ours}},
	{"UpstreamControllers", Mix{Ours, Upstream, Ours, Ours, Ours, Ours}},
	{"UpstreamScheduler", Mix{Ours, Ours, Upstream, Ours, Ours, Ours}},
	{"UpstreamKubelet", Mix{Ours, Ours, Ours, Upstream, Ours, Ours}},
	{"UpstreamProxy", Mix{Ours, Ours, Ours, Ours, Upstream, Ours}},
	{"DebianRuntime", Mix{Ours, Ours, Ours, Ours, Ours, Debian}},
}

func TestInterop(t *testing.T) {
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			ctx := context.WithoutCancel(t.Context()) // clean-up needs it too
			bin, err := filepath.Abs("../../bin")
			must(t, err)
			c, err := Start(ctx, bin, mix.Mix)
			t.Cleanup(func() {
				if t.Failed() {
					logs := filepath.Join(bin, "interop", filepath.Base(t.Name()))
					t.Logf("the parts' logs are in %s (%v)", logs, c.KeepLogs(logs))
				}
				must(t, c.Stop(ctx))
			})
			must(t, err)
			before, logged := c.leftovers(t), len(c.controllersLog(t))
			t.Run("Scripts", func(t *testing.T) { // returns when all scripts have ended
				script.Cluster{
					Kubeconfig: c.Kubeconfig(), Kubectl: c.node.Bundle + "/keelson kubectl",
					Programs: map[string]string{"inside": "exec " + strings.Join(c.inside(), " ") + ` "$@"`},
					Env:      map[string]string{"DEMO": filepath.Join(c.node.Bundle, "demo")},
				}.Run(t, testscript.Params{Dir: "testdata/script"})
			})
			if mix.name == "AllUpstream" && *take {
				c.takeOutputs(t)
			}
			c.mustBeEmpty(t, before)
			for line := range strings.Lines(c.controllersLog(t)[logged:]) {
				if strings.Contains(line, "is forbidden: User") {
					t.Errorf("a controller has not the rights that it needs: %s", line)
				}
			}
		})
	}
}

// takeOutputs writes what kubectl prints on this cluster into the files that lab/e2e holds ours against.
func (c *Cluster) takeOutputs(t *testing.T) {
	bin := filepath.Dir(c.kubectlCommand().Path)
	for name, client := range map[string]string{"BuiltIn": bin + "/keelson kubectl", "Oldest": bin + "/e2e/kubectl-1.32"} {
		golden := filepath.Join("../e2e/testdata/golden/TestHeld", name)
		must(t, os.RemoveAll(golden))
		t.Run("Outputs", func(t *testing.T) {
			script.Cluster{Kubeconfig: c.Kubeconfig(), Kubectl: client, Golden: golden, TakeGolden: true}.Run(
				t, testscript.Params{Dir: "../e2e/testdata/script/held", ContinueOnError: true})
		})
	}
}

// mustBeEmpty waits until the namespaces of the scripts are gone, and with them all that their pods had on the node.
func (c *Cluster) mustBeEmpty(t *testing.T, before string) {
	t.Helper()
	must(t, within(t.Context(), 2*time.Minute, func() error {
		out, err := c.kubectlCommand("get", "namespaces", "-o", "name").Output()
		if err != nil || strings.Contains(string(out), "e2e-") {
			return fmt.Errorf("namespaces that should be gone: %s (%w)", out, err)
		}
		return nil
	}))
	must(t, within(t.Context(), 3*time.Minute, func() error {
		if after := c.leftovers(t); after != before {
			return fmt.Errorf("pods have left something on the node; before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	}))
}

func (c *Cluster) controllersLog(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(c.node.StatePath("/var/log/controller-manager.log"))
	must(t, err)
	return string(log)
}

// leftovers lists what pods have on the node.
func (c *Cluster) leftovers(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(c.inside()[0], append(c.inside()[1:], "/bin/sh", "-c", script.Leftovers)...).Output()
	must(t, err)
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inside is the beginning of a command that runs in the node.
func (c *Cluster) inside() []string {
	return []string{filepath.Join(c.node.Bundle, "runc"), "--root", filepath.Join(home, "runc"), "exec", "interop-" + NodeName}
}
