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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// blow is one thing that breaks.
type blow struct {
	name string
	do   func() error
	mend func() error // what the user does afterwards, once traffic flows again
	// tolerated is how many requests a user would accept to lose: those that were under way where it struck.
	tolerated int
}

func blows() []blow {
	return []blow{
		{name: "DeletePod", do: deleteOneDemoPod},
		{name: "KillContainerProcess", do: killOneDemoProcess, tolerated: 10},
		{name: "KillContainerd", do: func() error { return killInNode("worker-1", "/containerd --config") }},
		{name: "KillAgent", do: func() error { return killInNode("worker-1", "keelson agent") }},
		{name: "KillControlPlane", do: func() error { return killInNode("server-1", "keelson server") }},
		{
			name: "KillNode", do: func() error { return command("node", "kill", "worker-1").Run() },
			mend: func() error { return command("node", "start", "worker-1").Run() }, tolerated: 200,
		},
	}
}

// TestHeal breaks one thing after the other while a client asks the demo Service ten times a second, and demands that all heals by
// itself. The figures are logged: failed requests, the time from the blow to the last failure, and the time until all replicas were
// available again.
func TestHeal(t *testing.T) {
	address := serverAddress(t)
	must(t, kubectl("scale", "-n", "demo", "deployment/demo", "--replicas=6"))
	waitDemo(t, 6)
	t.Cleanup(func() { _ = kubectl("scale", "-n", "demo", "deployment/demo", "--replicas=2") })
	for _, blow := range blows() {
		t.Run(blow.name, func(t *testing.T) {
			load := startLoad("http://" + address + ":30080/")
			time.Sleep(time.Second) // a client in its stride; a test may wait
			struck := time.Now()
			must(t, blow.do())
			whole, missing := struck, true // since when the API has answered, and that all replicas are there
			healed := func() error {
				if err := demoHas(6); err != nil {
					missing = true
					return err
				}
				if missing {
					whole, missing = time.Now(), false
				}
				if time.Since(whole) < 3*time.Second {
					return fmt.Errorf("a replica was missing %s ago", time.Since(whole))
				}
				return load.steady(3 * time.Second)
			}
			waitFor(t, 2*time.Minute, healed)
			healing := whole.Sub(struck)
			if blow.mend != nil {
				must(t, blow.mend())
				must(t, kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"))
				waitFor(t, 2*time.Minute, healed)
			}
			load.stop()
			outage := time.Duration(0)
			if load.failed > 0 {
				outage = load.lastFailure.Sub(struck)
			}
			t.Logf("figures: %s: %d of %d requests failed, the last one %.1f s after the blow; API and all replicas again within %.1f s",
				blow.name, load.failed, load.sent, outage.Seconds(), healing.Seconds())
			if load.failed > blow.tolerated {
				t.Errorf("%d requests failed, %d are tolerated; the first: %v", load.failed, blow.tolerated, load.firstError)
			}
		})
	}
}

// TestAcknowledged writes as fast as it can while the control plane, with its database, is killed, and looks for every write that was
// acknowledged.
func TestAcknowledged(t *testing.T) {
	client, namespace := clientset(t), newNamespace(t)

	var acknowledged []string
	written := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(written)
		for i := 0; ctx.Err() == nil; i++ {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("write-%d", i)}}
			bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
			if _, err := client.CoreV1().ConfigMaps(namespace).Create(bounded, object, metav1.CreateOptions{}); err == nil {
				acknowledged = append(acknowledged, object.Name)
			}
			cancel()
		}
	}()
	time.Sleep(time.Second) // writes in full swing
	for range 2 {
		must(t, killInNode("server-1", "keelson server"))
		time.Sleep(500 * time.Millisecond) // until it is really gone
		waitFor(t, time.Minute, func() error { return kubectl("get", "--raw", "/readyz") })
		time.Sleep(time.Second) // and again in full swing
	}
	stop()
	<-written
	list, err := client.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	stored := map[string]bool{}
	for i := range list.Items {
		stored[list.Items[i].Name] = true
	}
	for _, name := range acknowledged {
		if !stored[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	t.Logf("figures: %d acknowledged writes, %d stored, over two kills of the control plane", len(acknowledged), len(list.Items))
}

// load is a client that asks again and again.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	sent, failed int
	began        time.Time
	lastFailure  time.Time
	firstError   error
}

// startLoad asks ten times a second, each time on a connection of its own, and does not wait for one answer to ask again.
func startLoad(url string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, began: time.Now()}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	l.done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				l.done.Go(func() { l.note(ask(client, url)) }) // ends within the client's timeout: at most ten at once
			}
		}
	})
	return l
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if err == nil {
		return
	}
	if l.failed == 0 {
		l.firstError = err
	}
	l.failed++
	l.lastFailure = time.Now()
}

func ask(client *http.Client, url string) error {
	return answered(client.Get(url))
}

// answered is nil for a whole answer that says OK.
func answered(response *http.Response, err error) error {
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

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

func serverAddress(t *testing.T) string {
	t.Helper()
	return output(t, "get", "node", "server-1", "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}")
}

func kubectlCommand(args ...string) *exec.Cmd {
	return command(append([]string{"kubectl"}, args...)...)
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

func waitDemo(t *testing.T, replicas int) {
	t.Helper()
	waitFor(t, 3*time.Minute, func() error { return demoHas(replicas) })
}

// demoHas is nil if the demo has that many available replicas, and as many in all, as the cluster says.
func demoHas(replicas int) error {
	out, err := kubectlCommand("get", "--request-timeout=1s", "-n", "demo", "deployment/demo",
		"-o", "jsonpath={.status.availableReplicas} {.status.replicas}").Output()
	if err != nil {
		return fmt.Errorf("read demo: %w", err)
	}
	if want := fmt.Sprintf("%[1]d %[1]d", replicas); string(out) != want {
		return fmt.Errorf("%q replicas are available and there, not %q", out, want)
	}
	return nil
}

func waitFor(t *testing.T, long time.Duration, done func() error) {
	t.Helper()
	if err := repeat(long, done); err != nil {
		t.Fatalf("not within %s: %v", long, err)
	}
}

// repeat does what fails again until it succeeds or the time is over; then it returns the last error.
func repeat(long time.Duration, try func() error) error {
	deadline := time.Now().Add(long)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
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

// killOneDemoProcess kills the program of one replica, and returns when its container has been started again.
func killOneDemoProcess() error {
	restarts := func() (string, error) {
		out, err := kubectlCommand("get", "pods", "-n", "demo", "-l", "app=demo", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}").Output()
		return string(out), err
	}
	before, err := restarts()
	if err != nil {
		return err
	}
	if err := killInNode("worker-1", "POD_NAME=demo-"); err != nil {
		return err
	}
	for range 100 {
		if after, err := restarts(); err == nil && after != before {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("restart counts are still %s", before)
}

// killInNode sends SIGKILL to the first process of a node whose command line or environment holds the text.
func killInNode(node, text string) error { return signalInNode(node, text, "KILL") }

// signalInNode sends it another signal: TERM, for one.
func signalInNode(node, text, signal string) error {
	const script = `for p in /proc/[0-9]*; do
		[ "${p#/proc/}" = $$ ] && continue # this shell, whose command line holds the text too
		case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null; tr '\0' ' ' <$p/environ 2>/dev/null)" in *"$0"*) kill -"$1" ${p#/proc/} && exit 0 ;; esac
	done; exit 1`
	if out, err := command("node", "exec", node, "--", "/bin/sh", "-c", script, text, signal).CombinedOutput(); err != nil {
		return fmt.Errorf("send %s to %q on %s: %w: %s", signal, text, node, err, out)
	}
	return nil
}
