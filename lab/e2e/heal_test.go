//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHeal breaks one thing after the other while a client asks the demo Service ten times a second, and demands that all heals by
// itself. The figures are logged: failed requests, and the time from the blow to the last failure.
func TestHeal(t *testing.T) {
	address := serverAddress(t)
	must(t, kubectl("scale", "-n", "demo", "deployment/demo", "--replicas=6"))
	waitDemo(t, 6)
	must(t, kubectl("create", "configmap", "-n", "demo", "acknowledged", "--from-literal=key=kept"))
	t.Cleanup(func() {
		_ = kubectl("delete", "configmap", "-n", "demo", "acknowledged")
		_ = kubectl("scale", "-n", "demo", "deployment/demo", "--replicas=2")
	})
	blows := []struct {
		name string
		do   func() error
		mend func() error
		// tolerated is how many requests a user would accept to lose: those that were under way where it struck.
		tolerated int
	}{
		{name: "DeletePod", do: deleteOneDemoPod},
		{name: "KillContainerProcess", do: func() error { return killInNode("worker-1", "/demo", 1) }, tolerated: 15},
		{name: "KillContainerd", do: func() error { return killInNode("worker-1", "/opt/keelson/containerd --config", 1) }},
		{name: "KillAgent", do: func() error { return killInNode("worker-1", "keelson agent", 1) }},
		{name: "KillControlPlane", do: func() error { return killInNode("server-1", "keelson server", 1) }},
		{
			name: "KillNode", do: func() error { return command("node", "kill", "worker-1").Run() },
			mend: func() error { return command("node", "start", "worker-1").Run() }, tolerated: 400,
		},
	}
	for _, blow := range blows {
		t.Run(blow.name, func(t *testing.T) {
			load := startLoad("http://" + address + ":30080/")
			time.Sleep(time.Second) // a client in its stride; a test may wait
			struck := time.Now()
			if err := blow.do(); err != nil {
				t.Fatalf("strike: %v", err)
			}
			if blow.mend != nil {
				waitFor(t, 2*time.Minute, func() error { return load.steady(5 * time.Second) })
				must(t, blow.mend())
			}
			waitDemo(t, 6)
			waitFor(t, 2*time.Minute, func() error { return load.steady(3 * time.Second) })
			sent, failed, last := load.stop()
			outage := time.Duration(0)
			if failed > 0 {
				outage = last.Sub(struck).Round(10 * time.Millisecond)
			}
			t.Logf("%s: %d of %d requests failed; the last one %s after the blow", blow.name, failed, sent, outage)
			if failed > blow.tolerated {
				t.Errorf("%d requests failed, %d are tolerated", failed, blow.tolerated)
			}
			if got := output(t, "get", "configmap", "-n", "demo", "acknowledged", "-o", "jsonpath={.data.key}"); got != "kept" {
				t.Errorf("acknowledged write is lost: %q", got)
			}
		})
	}
}

// load is a client that asks again and again.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu           sync.Mutex
	sent, failed int
	began        time.Time
	lastFailure  time.Time
}

func startLoad(url string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{}), began: time.Now()}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				err := ask(client, url)
				l.mu.Lock()
				l.sent++
				if err != nil {
					l.failed++
					l.lastFailure = time.Now()
				}
				l.mu.Unlock()
			}
		}
	}()
	return l
}

func ask(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

// steady is nil once no request has failed for so long.
func (l *load) steady(long time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := l.lastFailure
	if since.IsZero() {
		since = l.began
	}
	if time.Since(since) < long {
		return fmt.Errorf("a request failed %s ago", time.Since(since))
	}
	return nil
}

func (l *load) stop() (sent, failed int, lastFailure time.Time) {
	l.cancel()
	<-l.done
	return l.sent, l.failed, l.lastFailure
}

func serverAddress(t *testing.T) string {
	t.Helper()
	return output(t, "get", "node", "server-1", "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}")
}

func kubectlCommand(args ...string) *exec.Cmd {
	return exec.Command(keelson, append([]string{"--name", *clusterName, "kubectl"}, args...)...)
}

func kubectl(args ...string) error {
	if out, err := kubectlCommand(args...).CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectlCommand(args...).Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// waitDemo waits until the demo has that many available replicas, as the cluster says.
func waitDemo(t *testing.T, replicas int) {
	t.Helper()
	waitFor(t, 3*time.Minute, func() error {
		out, err := kubectlCommand("get", "-n", "demo", "deployment/demo", "-o", "jsonpath={.status.availableReplicas}").Output()
		if err != nil {
			return err
		}
		if string(out) != fmt.Sprint(replicas) {
			return fmt.Errorf("%s of %d replicas are available", out, replicas)
		}
		return nil
	})
}

func waitFor(t *testing.T, long time.Duration, done func() error) {
	t.Helper()
	deadline := time.Now().Add(long)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", long, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func deleteOneDemoPod() error {
	out, err := kubectlCommand("get", "pods", "-n", "demo", "-l", "app=demo", "-o", "name").Output()
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(string(out), "\n")
	return kubectl("delete", "-n", "demo", name, "--wait=false")
}

// killInNode sends SIGKILL to at most count processes of a node whose command line begins with, or holds, the pattern.
func killInNode(node, pattern string, count int) error {
	script := fmt.Sprintf(`n=0; for p in /proc/[0-9]*; do
		c=$(tr '\0' ' ' <$p/cmdline 2>/dev/null) || continue
		case "$c" in *"for p in"*) ;; *%q*) kill -9 ${p#/proc/} && n=$((n+1)); [ $n -ge %d ] && exit 0 ;; esac
	done; exit 1`, pattern, count)
	if out, err := command("node", "exec", node, "--", "/bin/sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("kill %q on %s: %w: %s", pattern, node, err, out)
	}
	return nil
}
