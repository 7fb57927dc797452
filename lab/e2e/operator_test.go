//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestOperator runs an operator that is made with controller-runtime, twice: one instance leads, and the other takes over when the
// leader is killed. What it does is seen by kubectl.
func TestOperator(t *testing.T) {
	program := filepath.Join(t.TempDir(), "operator")
	build := exec.Command("go", "build", "-o", program, "./operator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build operator: %v: %s", err, out)
	}
	namespace := fmt.Sprintf("e2e-operator-%d", time.Now().UnixNano()%100000)
	must(t, kubectl("create", "namespace", namespace))
	must(t, kubectl("apply", "-f", "testdata/operator/crd.yaml"))
	t.Cleanup(func() {
		_ = kubectl("delete", "namespace", namespace, "--wait=false")
		_ = kubectl("delete", "-f", "testdata/operator/crd.yaml", "--wait=false")
	})
	must(t, kubectl("wait", "--for=condition=Established", "crd/sites.e2e.keelson.dev", "--timeout=30s"))

	has := func(want, kind, path string) {
		t.Helper()
		waitFor(t, time.Minute, func() error {
			out, err := kubectlCommand("get", "-n", namespace, kind, "web", "--ignore-not-found", "-o", "jsonpath="+path).CombinedOutput()
			if err != nil || string(out) != want {
				return fmt.Errorf("%s of %s: want %q, got %q (%w)", path, kind, want, out, err)
			}
			return nil
		})
	}
	leader := startOperator(t, program, namespace)
	site := fmt.Sprintf(`{"apiVersion":"e2e.keelson.dev/v1","kind":"Site","metadata":{"name":"web","namespace":%q},"spec":{"image":"registry.keelson.dev/demo:1"}}`, namespace)
	file := filepath.Join(t.TempDir(), "site.json")
	must(t, os.WriteFile(file, []byte(site), 0o600))
	must(t, kubectl("apply", "-f", file))
	has("1 1", "site", "{.status.readyReplicas} {.status.observedGeneration}")
	has("Site web true", "deployment", "{.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name} {.metadata.ownerReferences[0].controller}")

	must(t, kubectl("patch", "site", "-n", namespace, "web", "--type=merge", "-p", `{"spec":{"replicas":3}}`))
	has("3 2", "site", "{.status.readyReplicas} {.status.observedGeneration}")
	must(t, kubectl("delete", "deployment", "-n", namespace, "web"))
	has("3", "deployment", "{.status.readyReplicas}")

	startOperator(t, program, namespace)
	must(t, leader.Process.Kill())
	must(t, kubectl("patch", "site", "-n", namespace, "web", "--type=merge", "-p", `{"spec":{"replicas":2}}`))
	has("2 3", "site", "{.status.readyReplicas} {.status.observedGeneration}")

	must(t, kubectl("delete", "site", "-n", namespace, "web"))
	has("", "deployment", "{.metadata.name}") // by the garbage collector
}

func startOperator(t *testing.T, program, namespace string) *exec.Cmd {
	t.Helper()
	operator := exec.Command(program, "--kubeconfig", kubeconfig(), "--namespace", namespace)
	log, err := os.Create(filepath.Join(t.TempDir(), "operator.log"))
	must(t, err)
	operator.Stdout, operator.Stderr = log, log
	must(t, operator.Start())
	t.Cleanup(func() {
		_ = operator.Process.Kill() // it may have ended
		_ = operator.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("operator %d:\n%s", operator.Process.Pid, text)
		}
	})
	return operator
}
