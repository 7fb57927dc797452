//go:build e2e

package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/lab/cluster"
)

var (
	duration = flag.Duration("faults.for", 40*time.Second, "how long servers fail, one after the other")
	seed     = flag.Uint64("faults.seed", uint64(time.Now().UnixNano()), "what fails when")
	name     = flag.String("faults.cluster", "faults", "name of the cluster that the test makes and removes")
)

const (
	// recovery is how long a cluster may take to be whole again once a fault is over.
	recovery = 2 * time.Minute
	// takeover is how long others need at most to lead in place of a server that is away: a Lease lasts 15 s.
	takeover = 25 * time.Second
)

// TestServers has one server after the other die, freeze, lose its power or its peers. Of all that clients did meanwhile, per key, there
// must be an order in which each saw what it saw (linearizability); no acknowledged write may be lost, and a watch has to tell of each of
// them once and in order. No pod name may run on two nodes at once, and no controller manager or scheduler write while another leads.
func TestServers(t *testing.T) {
	bundle, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: -faults.seed repeats what fails when", *seed)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), *duration*3+15*time.Minute)
	defer cancel()
	options := cluster.Options{
		Name: *name, Bundle: bundle, Servers: 3, Timeout: 5 * time.Minute, Step: t.Logf,
	}
	t.Cleanup(func() {
		c, err := cluster.Open(*name, bundle)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for _, m := range c.Members {
			if out, err := exec.Command("tail", "-n", "30", c.Node(m).StatePath("/var/log/keelson-server.log")).Output(); err == nil && t.Failed() {
				t.Logf("the end of the log of %s:\n%s", m.Name, out)
			}
		}
		if err := c.Down(context.WithoutCancel(ctx), false, ""); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Up(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigPath())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	leaders, err := startLeaders(ctx, config, c)
	if err != nil {
		t.Fatal(err)
	}
	movers, err := startMovers(ctx, config, c.Members)
	if err != nil {
		t.Fatal(err)
	}
	load, err := startLoad(ctx, config, *duration)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(*seed, 0))
	end := time.Now().Add(*duration)
	for turn := 0; time.Now().Before(end); turn++ {
		victim := c.Members[random.IntN(len(c.Members))]
		fault := faults[random.IntN(len(faults))]
		long := time.Duration(2+random.IntN(10)) * time.Second
		if random.IntN(3) == 0 {
			long += takeover
		}
		if first := slices.Sorted(maps.Values(components)); turn < len(first) { // each Lease has to be handed over
			if victim, err = leaders.holder(ctx, first[turn], c); err != nil {
				t.Fatal(err)
			}
			fault, long = freeze, takeover
		}
		t.Logf("%s: %s, for %s", victim.Name, fault.name, long)
		began := time.Now()
		undo, err := fault.do(ctx, c, victim)
		if err != nil {
			t.Fatalf("%s of %s: %v", fault.name, victim.Name, err)
		}
		time.Sleep(long) // that is the fault
		if err := undo(); err != nil {
			t.Fatalf("undo %s of %s: %v", fault.name, victim.Name, err)
		}
		if err := whole(ctx, config, c); err != nil {
			t.Fatalf("after %s of %s: %v", fault.name, victim.Name, err)
		}
		t.Logf("  whole again %.1f s after it began", time.Since(began).Seconds())
	}
	if err := movers.stop(ctx, c.Members); err != nil {
		t.Error(err)
	}
	leaders.stop()
	load.stop(t)
	load.check(t)
	movers.check(t)
	leaders.check(t, c)
}

// fault is one thing that happens to a server; do returns what ends it.
type fault struct {
	name string
	do   func(context.Context, *cluster.Cluster, cluster.Member) (undo func() error, err error)
}

var faults = []fault{
	{"kill -9", func(_ context.Context, _ *cluster.Cluster, m cluster.Member) (func() error, error) {
		return func() error { return nil }, killServer(m)
	}},
	freeze,
	{"power cut", func(ctx context.Context, c *cluster.Cluster, m cluster.Member) (func() error, error) {
		return func() error { return c.StartNode(ctx, m.Name) }, c.KillNode(ctx, m.Name)
	}},
	{"partition from the other servers", partition},
}

var freeze = fault{"freeze", func(ctx context.Context, c *cluster.Cluster, m cluster.Member) (func() error, error) {
	return func() error { return c.Node(m).Thaw(ctx) }, c.Node(m).Freeze(ctx)
}}

// killServer kills the server's process; its node starts it again.
func killServer(m cluster.Member) error {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range paths {
		line, _ := os.ReadFile(path) // it may have ended
		args := strings.Split(string(line), "\x00")
		if len(args) < 2 || args[1] != "server" || !strings.Contains(string(line), "--advertise-address\x00"+m.Address.String()+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		return unix.Kill(pid, unix.SIGKILL)
	}
	return errors.New("no server process")
}

// partition drops what the server and the others send each other; clients reach all.
func partition(ctx context.Context, c *cluster.Cluster, m cluster.Member) (func() error, error) {
	routes := func(action string) error {
		var errs []error
		for _, other := range c.Members {
			if other.Name == m.Name {
				continue
			}
			for from, to := range map[*cluster.Member]cluster.Member{&m: other, &other: m} {
				errs = append(errs, c.Node(*from).Exec(ctx, []string{"ip", "route", action, "blackhole", to.Address.String() + "/32"}))
			}
		}
		return errors.Join(errs...)
	}
	return func() error { return routes("del") }, routes("add")
}

// whole returns once every server is ready.
func whole(ctx context.Context, config *rest.Config, c *cluster.Cluster) error {
	for _, m := range c.Members {
		own := rest.CopyConfig(config)
		own.Host, own.Timeout = "https://"+net.JoinHostPort(m.Address.String(), "6443"), 5*time.Second
		client, err := kubernetes.NewForConfig(own)
		if err != nil {
			return err
		}
		var last error
		err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, recovery, true, func(ctx context.Context) (bool, error) {
			last = client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("%s is not ready: %w", m.Name, errors.Join(err, last))
		}
	}
	return nil
}
