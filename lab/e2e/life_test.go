//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"keelson.dev/lab/network"
)

var (
	lifeKills = flag.Int("life.kills", 1, "how often TestKillEverything kills all processes of the cluster")
	lifeSeed  = flag.Uint64("life.seed", 1, "where the random points at which it does come from")
)

// TestKillEverything kills every process of the cluster at random points, while it runs and while it starts, under a client that writes
// all the time. Each time keelson up brings it back with all that had been acknowledged, and nothing that had been deleted.
func TestKillEverything(t *testing.T) {
	random := rand.New(rand.NewPCG(*lifeSeed, 0))
	between := func(long time.Duration) time.Duration { return time.Duration(random.Int64N(int64(long))) }
	namespace := newNamespace(t)
	must(t, kubectl("-n", namespace, "create", "deployment", "web", "--image=registry.keelson.dev/demo:1", "--replicas=3"))
	must(t, kubectl("-n", namespace, "rollout", "status", "deployment/web", "--timeout=180s"))
	w := startWriter(t, namespace)
	var longest time.Duration
	for i := range *lifeKills {
		running := between(4 * time.Second)
		time.Sleep(running) // a random point of its life
		must(t, killEverything())
		inStart := []string{}
		for random.IntN(2) == 0 && len(inStart) < 3 { // and of its start
			up := command("up", "--kubeconfig", "")
			must(t, up.Start())
			after := between(6 * time.Second)
			time.Sleep(after)
			must(t, up.Process.Kill())
			_ = up.Wait() // it has been killed, or it had ended
			must(t, killEverything())
			inStart = append(inStart, after.Round(time.Millisecond).String())
		}
		started := time.Now()
		if out, err := command("up", "--kubeconfig", "").CombinedOutput(); err != nil {
			t.Fatalf("kill %d: up: %v: %s", i+1, err, out)
		}
		took := time.Since(started)
		longest = max(longest, took)
		waitFor(t, time.Minute, func() error { return w.check(t.Context()) })
		t.Logf("kill %d after %s, %d times while it started %v; up took %.1f s; %d writes acknowledged", i+1,
			running.Round(time.Millisecond), len(inStart), inStart, took.Seconds(), w.acknowledged())
	}
	must(t, w.stop())
	must(t, kubectl("-n", namespace, "rollout", "status", "deployment/web", "--timeout=180s"))
	t.Logf("figures: %d kills of everything, seed %d: %d acknowledged writes, none lost; the longest up took %.1f s",
		*lifeKills, *lifeSeed, w.acknowledged(), longest.Seconds())
}

// TestReboot takes away all that a reboot takes, and finds all that has to outlive it.
func TestReboot(t *testing.T) {
	namespace := newNamespace(t)
	must(t, kubectl("-n", namespace, "create", "secret", "generic", "kept", "--from-literal=key=value"))
	must(t, kubectl("-n", namespace, "create", "deployment", "web", "--image=registry.keelson.dev/demo:1", "--replicas=3"))
	must(t, kubectl("-n", namespace, "expose", "deployment", "web", "--port=80", "--target-port=8080"))
	must(t, kubectl("-n", namespace, "rollout", "status", "deployment/web", "--timeout=180s"))
	must(t, kubectl("-n", namespace, "run", "volume", "--image=registry.keelson.dev/toolbox:1", "--restart=Always", "--overrides", `{"spec":{
		"nodeName":"worker-1","terminationGracePeriodSeconds":1,"volumes":[{"name":"data","hostPath":{"path":"/srv/reboot","type":"DirectoryOrCreate"}}],
		"containers":[{"name":"volume","image":"registry.keelson.dev/toolbox:1","command":["sleep","3600"],"volumeMounts":[{"name":"data","mountPath":"/data"}]}]}}`))
	must(t, kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/volume", "--timeout=180s"))
	must(t, kubectl("-n", namespace, "exec", "volume", "--", "sh", "-c", "echo outlives >/data/file"))
	identities := func() string {
		return output(t, "get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.addresses[0].address} {.spec.podCIDR}{"\n"}{end}`) +
			output(t, "-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}") +
			output(t, "-n", namespace, "get", "pods", "-l", "app=web", "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].metadata.name}")
	}
	before := identities()

	must(t, killEverything())
	must(t, forgetAsReboot(t.Context()))
	if err := kubectl("get", "--raw", "/readyz"); err == nil {
		t.Fatal("the API server answers after the machine was switched off")
	}
	started := time.Now()
	if out, err := command("up", "--kubeconfig", "").CombinedOutput(); err != nil {
		t.Fatalf("up: %v: %s", err, out)
	}
	t.Logf("figures: up after a reboot took %.1f s", time.Since(started).Seconds())

	if after := identities(); after != before {
		t.Errorf("nodes, service and pods before:\n%s\nand after:\n%s", before, after)
	}
	waitFor(t, 3*time.Minute, func() error {
		return kubectl("-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=10s")
	})
	if value := output(t, "-n", namespace, "get", "secret", "kept", "-o", "jsonpath={.data.key}"); value != "dmFsdWU=" {
		t.Errorf("the secret reads %q", value)
	}
	waitFor(t, time.Minute, func() error {
		out, err := kubectlCommand("-n", namespace, "exec", "volume", "--", "sh", "-c", "cat /data/file && demo get http://web").CombinedOutput()
		if err == nil && !strings.HasPrefix(string(out), "outlives\n") {
			err = errors.New("the volume has lost its content")
		}
		if err != nil {
			return fmt.Errorf("volume, DNS and Service: %w: %s", err, out)
		}
		return nil
	})
}

func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := fmt.Sprintf("e2e-%s-%d", strings.ToLower(t.Name()), time.Now().UnixNano()%100000)
	must(t, kubectl("create", "namespace", namespace))
	t.Cleanup(func() { _ = kubectl("delete", "namespace", namespace, "--wait=false") })
	return namespace
}

// writer creates and deletes objects, one at a time, and remembers what was acknowledged.
type writer struct {
	client typedcorev1.ConfigMapInterface
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	stored map[string]bool // name → created (true) or deleted; what was not answered is in neither state
	acks   int
}

func startWriter(t *testing.T, namespace string) *writer {
	t.Helper()
	client := clientset(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{client: client.CoreV1().ConfigMaps(namespace), cancel: cancel, done: make(chan struct{}), stored: map[string]bool{}}
	go func() {
		defer close(w.done)
		for i := 0; ctx.Err() == nil; i++ {
			w.write(ctx, fmt.Sprintf("write-%d", i), true)
			if i%3 == 2 {
				w.write(ctx, fmt.Sprintf("write-%d", i-1), false)
			}
			time.Sleep(10 * time.Millisecond) // some thousands of objects are enough
		}
	}()
	return w
}

func (w *writer) write(ctx context.Context, name string, create bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	w.mu.Lock()
	state, known := w.stored[name]
	delete(w.stored, name) // until it is answered
	w.mu.Unlock()
	var err error
	if create {
		_, err = w.client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	} else if known && state {
		err = w.client.Delete(ctx, name, metav1.DeleteOptions{})
	} else {
		return
	}
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stored[name] = create
	w.acks++
}

func (w *writer) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acks
}

// check compares what was acknowledged with what is stored.
func (w *writer) check(ctx context.Context) error {
	w.mu.Lock()
	wanted := map[string]bool{}
	for name, created := range w.stored {
		wanted[name] = created
	}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	list, err := w.client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for i := range list.Items {
		there[list.Items[i].Name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, created := range wanted {
		if now, known := w.stored[name]; known && now == created && there[name] != created {
			return fmt.Errorf("%s: acknowledged as stored: %t; stored: %t", name, created, there[name])
		}
	}
	return nil
}

func (w *writer) stop() error {
	w.cancel()
	<-w.done
	return w.check(context.Background())
}

// cgroups are the folders of the cluster's control groups.
func cgroups() []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/keelson/" + *clusterName) // a constant pattern but for the name
	return append(found, "/sys/fs/cgroup/keelson/"+*clusterName)
}

// processes are all processes of the cluster: its nodes' and its daemons'.
func processes() ([]int, error) {
	pids := map[int]bool{}
	for _, group := range cgroups() {
		err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				if errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
				return err
			}
			text, err := os.ReadFile(path)
			for field := range bytes.FieldsSeq(text) {
				if pid, _ := strconv.Atoi(string(field)); pid > 0 {
					pids[pid] = true
				}
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	files, err := filepath.Glob(filepath.Join(home(), "clusters", *clusterName, "*.pid"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, _ := os.ReadFile(file)
		pid, _ := strconv.Atoi(string(text))
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if pid > 0 && bytes.Contains(line, []byte(keelson)) && bytes.Contains(line, []byte(*clusterName)) {
			pids[pid] = true
		}
	}
	var all []int
	for pid := range pids {
		all = append(all, pid)
	}
	return all, nil
}

// killEverything kills until nothing is left, as the kernel would when it dies: some processes start others meanwhile.
func killEverything() error {
	deadline := time.Now().Add(time.Minute)
	for {
		pids, err := processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		time.Sleep(20 * time.Millisecond) // until they are gone
	}
}

// forgetAsReboot removes what only a running kernel knows: mounts, control groups, interfaces and rules. What is below /run went with the
// nodes' processes, to whose namespaces it belonged.
func forgetAsReboot(ctx context.Context) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, filepath.Join(home(), "clusters", *clusterName)+"/") {
			points = append(points, point)
		}
	}
	slices.Sort(points)
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	for _, group := range cgroups() {
		if out, err := exec.Command("find", group, "-depth", "-type", "d", "-delete").CombinedOutput(); err != nil {
			if _, missing := os.Stat(group); missing == nil {
				return fmt.Errorf("remove %s: %w: %s", group, err, out)
			}
		}
	}
	return network.Network{Cluster: *clusterName}.Down(ctx)
}
