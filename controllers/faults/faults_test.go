package faults

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/controllers"
	"keelson.dev/internal/apiclient"
)

var (
	seed      = flag.Uint64("faults.seed", 1, "first seed of the fault injection")
	seeds     = flag.Uint64("faults.seeds", 2, "how many seeds to run")
	lifetimes = flag.Int("faults.lives", 8, "how often the controller manager dies, per seed")
)

// workloads are the controllers under test.
var workloads = []string{"deployment", "replicaset", "statefulset", "daemonset", "job", "garbage-collector"}

// TestPromises has the controllers live through a plague of faults, and then checks their promises at every revision. A seed fixes
// what the faults and the people choose; how the goroutines run beside each other stays open.
func TestPromises(t *testing.T) {
	for s := *seed; s < *seed+*seeds; s++ {
		promises(t, s)
	}
}

func promises(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	ns := namespace(t)
	ctx, stop := context.WithCancel(t.Context())
	h, recording := record(ctx, t, shared.client, ns)
	a := newAgents(shared.client, ns)
	go a.run(ctx)
	p := &people{client: shared.client, namespace: ns, history: h, rand: random}
	p.create(ctx, t)

	const stall = time.Second
	var lives sync.WaitGroup
	lives.Go(func() {
		for n := range *lifetimes {
			fate := rand.New(rand.NewPCG(seed, uint64(n)+1))
			live(ctx, t, plague{fail: 0.05, lose: 0.05, stall: stall, dieAt: 1 + fate.Int64N(80)}, fate)
		}
	})
	busy, rest := context.WithTimeout(ctx, 3*time.Minute)
	defer rest()
	go func() { defer rest(); lives.Wait() }()
	p.live(busy, t, 60*time.Millisecond, 2*time.Second)
	lives.Wait()

	healthy, end := context.WithCancel(ctx)
	lives.Go(func() { live(healthy, t, plague{}, random) })
	began := time.Now()
	if err := eventually(2*time.Minute, func() error { return p.settled(ctx) }); err != nil {
		t.Errorf("two minutes after the last fault: %v", err)
	}
	t.Logf("seed %d: settled %s after the last fault", seed, time.Since(began).Round(100*time.Millisecond))
	end()
	lives.Wait()
	if err := eventually(time.Minute, func() error { return h.caughtUp(ctx, shared.client, ns) }); err != nil {
		t.Errorf("the history after a minute: %v", err)
	}
	stop()
	recording.Wait()
	report(t, check(h, a.ended, 5*stall), len(h.changes))
	must(t, shared.client.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), ns, metav1.DeleteOptions{}))
}

// live runs one life of the controller manager: until its context ends or the plague does for it.
func live(ctx context.Context, t *testing.T, p plague, random *rand.Rand) {
	ctx, die := context.WithCancel(ctx)
	defer die()
	i := &ill{plague: p, rand: random, die: die}
	cfg := apiclient.Config(shared.loopback, "faults")
	cfg.Wrap(i.wrap)
	if err := controllers.Run(ctx, controllers.Config{RESTConfig: cfg, Controllers: workloads, UseServiceAccountCredentials: true}); err != nil && ctx.Err() == nil {
		t.Logf("controllers: %v", err)
	}
	i.dead.Store(true)
	i.underway.Wait()
	if p.dieAt > 0 && testing.Verbose() {
		t.Logf("a life of %d writes", i.writes.Load())
	}
}

func report(t *testing.T, c *checker, changes int) {
	t.Helper()
	t.Logf("%d changes checked", changes)
	for n, broken := range c.broken {
		if n == 40 {
			t.Errorf("... and %d more", len(c.broken)-n)
			return
		}
		t.Error(broken)
	}
}

// eventually asks until there is no error or the time is over, and returns the last error.
func eventually(within time.Duration, ask func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}
