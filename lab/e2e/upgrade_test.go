//go:build e2e

package e2e

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var upgradeFrom = flag.String("upgrade.from", "", "folder of an older build, which makes the cluster; without it TestUpgrade is skipped")

// maker is the program that makes the cluster of the tests.
func maker() string {
	if *upgradeFrom != "" {
		return filepath.Join(*upgradeFrom, "keelson")
	}
	return keelson
}

// TestUpgrade lets a cluster that an older build has made go on with this one, under a client of its API and one of a Service.
func TestUpgrade(t *testing.T) {
	if *upgradeFrom == "" {
		t.Skip("make upgrade-test runs it")
	}
	namespace := newNamespace(t)
	in := func(args ...string) []string { return append([]string{"-n", namespace}, args...) }
	must(t, kubectl(in("create", "secret", "generic", "kept", "--from-literal=key=value")...))
	must(t, kubectl(in("create", "deployment", "web", "--image=registry.keelson.dev/demo:1", "--replicas=4")...))
	must(t, kubectl(in("expose", "deployment", "web", "--port=80", "--target-port=8080")...))
	must(t, kubectl(in("run", "store", "--image=registry.keelson.dev/toolbox:1", "--overrides", `{"spec":{
		"terminationGracePeriodSeconds":1,"volumes":[{"name":"data","emptyDir":{}}],"containers":[{"name":"store","image":"registry.keelson.dev/toolbox:1",
		"command":["sleep","36000"],"volumeMounts":[{"name":"data","mountPath":"/data"}]}]}}`)...))
	must(t, kubectl(in("rollout", "status", "deployment/web", "--timeout=180s")...))
	must(t, kubectl(in("wait", "--for=condition=Ready", "pod/store", "--timeout=180s")...))
	must(t, kubectl(in("exec", "store", "--", "sh", "-c", "echo kept >/data/file")...))
	containers := func() string {
		return output(t, in("get", "pods", "--sort-by=.metadata.name", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)...)
	}
	old := map[string]string{}
	for _, node := range []string{"server-1", "worker-1", "worker-2"} {
		old[node] = programs(t, node)
	}
	before := containers()
	writes := startWriter(t, namespace)
	asks := startLoad("http://" + serverAddress(t) + ":30080/")

	started := time.Now()
	if out, err := command("upgrade", "--kubeconfig", "").CombinedOutput(); err != nil {
		t.Fatalf("upgrade: %v: %s", err, out)
	}
	took := time.Since(started)

	asks.stop()
	must(t, writes.stop())
	if after := containers(); after != before {
		t.Errorf("containers before:\n%s\nand after:\n%s", before, after)
	}
	program, err := os.ReadFile(keelson)
	must(t, err)
	sum := fmt.Sprintf("%x", sha256.Sum256(program))
	for node, was := range old {
		now := programs(t, node)
		if want := strings.Count(was, "\n"); strings.Count(now, sum) != want {
			t.Errorf("%s ran\n%sand runs\n%snot %d of %s", node, was, now, want, sum)
		}
	}
	if value := output(t, in("get", "secret", "kept", "-o", "jsonpath={.data.key}")...); value != "dmFsdWU=" {
		t.Errorf("the secret reads %q", value)
	}
	must(t, kubectl(in("scale", "deployment/web", "--replicas=6")...))
	must(t, kubectl(in("rollout", "status", "deployment/web", "--timeout=180s")...))
	waitFor(t, time.Minute, func() error {
		out, err := kubectlCommand(in("exec", "store", "--", "sh", "-c", "cat /data/file && demo get http://web")...).CombinedOutput()
		if err == nil && !strings.HasPrefix(string(out), "kept\n") {
			err = errors.New("the volume has lost its content")
		}
		if err != nil {
			return fmt.Errorf("volume, DNS and Service: %w: %s", err, out)
		}
		return nil
	})
	t.Logf("figures: the upgrade took %.1f s; %d of %d requests to a Service failed; %d writes acknowledged, none lost", took.Seconds(), asks.failed, asks.sent, writes.acknowledged())
	if asks.failed > 0 {
		t.Errorf("%d requests failed; the first: %v", asks.failed, asks.firstError)
	}

	// And the node's own start, which everything is mounted and written anew for.
	must(t, command("node", "kill", "worker-1").Run())
	must(t, command("node", "start", "worker-1").Run())
	waitFor(t, 3*time.Minute, func() error {
		return kubectl(in("wait", "--for=condition=Ready", "pods", "--all", "--timeout=10s")...)
	})
}

// programs are the checksums of what a node's server and agent run, one a line.
func programs(t *testing.T, node string) string {
	t.Helper()
	out, err := command("node", "exec", node, "--", "/bin/sh", "-c",
		`for p in $(pgrep -f '^/opt/keelson/keelson (server|agent) '); do sha256sum <"/proc/$p/exe"; done`).CombinedOutput()
	if err != nil {
		t.Fatalf("programs of %s: %v: %s", node, err, out)
	}
	return string(out)
}
