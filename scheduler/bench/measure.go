package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"keelson.dev/internal/bench"
	"keelson.dev/internal/pki"
)

// result is one run.
type result struct {
	pods               int
	perSecond          float64
	p50, p99           time.Duration // from the request that created a pod until the watch shows it bound
	schedulerCPU, rest time.Duration // of all pods together; rest: API server and etcd
	schedulerRSS       int64
}

// once runs a workload on a control plane of its own.
func (s *settings) once(ctx context.Context, w workload, size int, combo string) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c := combinations[combo]
	k, err := s.Start(ctx, c.api, asPerf)
	if err != nil {
		return result{}, err
	}
	logs := s.logs
	if logs != "" {
		logs = filepath.Join(logs, combo)
	}
	defer k.Stop(logs)
	if err := prepare(ctx, k.Client, w, size); err != nil {
		return result{}, err
	}
	if err := s.startScheduler(k, c); err != nil {
		return result{}, err
	}
	// A first pod shows that the scheduler has read the cluster and works.
	before := &group{client: k.Client, namespace: nsBeside, make: light}
	if err := before.createAndWait(ctx, 1); err != nil {
		return result{}, fmt.Errorf("first pod: %w", err)
	}
	before = &group{client: k.Client, namespace: nsBefore, make: w.pod}
	if n := w.before(size); w.waits {
		err = before.create(ctx, n)
	} else {
		err = before.createAndWait(ctx, n)
	}
	if err != nil {
		return result{}, fmt.Errorf("pods before: %w", err)
	}
	return measure(ctx, k, w, w.count(size, s.pods))
}

func measure(ctx context.Context, k *bench.Plane, w workload, count int) (result, error) {
	scheduler, err := k.Last(1)
	if err != nil {
		return result{}, err
	}
	all, err := k.All()
	if err != nil {
		return result{}, err
	}
	var beside sync.WaitGroup
	besideCtx, stop := context.WithCancel(ctx)
	if w.beside != nil {
		beside.Go(func() { w.beside(besideCtx, k.Client) })
	}
	measured := &group{client: k.Client, namespace: nsMeasured, make: w.measured}
	started := time.Now()
	err = measured.createAndWait(ctx, count)
	took := time.Since(started)
	stop()
	beside.Wait()
	if err != nil {
		return result{}, err
	}
	schedulerAfter, err := k.Last(1)
	if err != nil {
		return result{}, err
	}
	allAfter, err := k.All()
	if err != nil {
		return result{}, err
	}
	r := result{pods: count, perSecond: float64(count) / took.Seconds(), schedulerCPU: schedulerAfter.CPU - scheduler.CPU, schedulerRSS: schedulerAfter.Peak}
	r.rest = allAfter.CPU - all.CPU - r.schedulerCPU
	var latencies []time.Duration
	for name, at := range measured.bound {
		latencies = append(latencies, at.Sub(measured.created[name]))
	}
	slices.Sort(latencies)
	r.p50, r.p99 = latencies[len(latencies)/2], latencies[len(latencies)*99/100]
	return r, nil
}

// prepare makes the nodes and namespaces.
func prepare(ctx context.Context, client kubernetes.Interface, w workload, size int) error {
	for _, name := range []string{nsBefore, nsMeasured, nsBeside} {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
	}
	return bench.Parallel(ctx, size, func(ctx context.Context, i int) error {
		_, err := client.CoreV1().Nodes().Create(ctx, node(i, w.zones), metav1.CreateOptions{})
		return err
	})
}

// group is a number of pods alike in one namespace.
type group struct {
	client    kubernetes.Interface
	namespace string
	make      func() *corev1.Pod

	mu             sync.Mutex
	created, bound map[string]time.Time
}

func (g *group) create(ctx context.Context, count int) error {
	g.created = make(map[string]time.Time, count)
	return bench.Parallel(ctx, count, func(ctx context.Context, i int) error {
		p := g.make()
		p.Name = fmt.Sprintf("pod-%05d", i)
		g.mu.Lock()
		g.created[p.Name] = time.Now()
		g.mu.Unlock()
		_, err := g.client.CoreV1().Pods(g.namespace).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
}

// createAndWait creates pods and returns when all are bound.
func (g *group) createAndWait(ctx context.Context, count int) error {
	if count == 0 {
		return nil
	}
	g.bound = make(map[string]time.Time, count)
	pods := cache.NewListWatchFromClient(g.client.CoreV1().RESTClient(), "pods", g.namespace, fields.Everything())
	now, err := g.client.CoreV1().Pods(g.namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	// A server may end a watch at any time; this one goes on where it was.
	w, err := watchtools.NewRetryWatcherWithContext(ctx, now.ResourceVersion, pods)
	if err != nil {
		return err
	}
	defer w.Stop()
	creating, ctx := errgroup.WithContext(ctx)
	creating.Go(func() error { return g.create(ctx, count) })
	creating.Go(func() error { return g.follow(ctx, w, count) })
	return creating.Wait()
}

func (g *group) follow(ctx context.Context, w watch.Interface, count int) error {
	for len(g.bound) < count {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d pods are bound: %w", len(g.bound), count, ctx.Err())
		case event, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch of pods ended")
			}
			p, ok := event.Object.(*corev1.Pod)
			if !ok || p.Spec.NodeName == "" {
				continue
			}
			if _, had := g.bound[p.Name]; !had {
				g.bound[p.Name] = time.Now()
			}
		}
	}
	return nil
}

// As scheduler_perf: pods bring their priorities, and nobody makes their service account or reports nodes ready.
const asPerf = "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority"

// schedulerConfig lifts kube-scheduler's client-side limit, as scheduler_perf does: ours has none.
const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 5000, burst: 5000}
leaderElection: {leaderElect: false}
`

// startScheduler starts the combination's scheduler.
func (s *settings) startScheduler(k *bench.Plane, c combination) error {
	path, err := k.User("scheduler", pki.Request{CommonName: "system:kube-scheduler"})
	if err != nil {
		return err
	}
	if c.scheduler == bench.Keelson {
		return k.Run(filepath.Join(s.Ours, "scheduler"), "scheduler", "--kubeconfig="+path, "--secure-port=0", "--leader-elect=false")
	}
	config := filepath.Join(k.Dir, "scheduler.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, schedulerConfig, path), 0o600); err != nil {
		return err
	}
	return k.Run(filepath.Join(s.Upstream, "kube-scheduler"), "scheduler", "--config="+config, "--secure-port=0", "--leader-elect=false")
}
