package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"keelson.dev/internal/bench"
	"keelson.dev/lab/images"
	"keelson.dev/lab/interop"
)

const namespace = "default"

// node is the node that is measured, with the process of its agent.
type node struct {
	*settings

	client  kubernetes.Interface
	pid     int
	figures []figure
}

func (n *node) add(name string, value float64) {
	fmt.Fprintf(os.Stderr, "%s: %.2f\n", name, value)
	n.figures = append(n.figures, figure{name, value})
}

// rest is how long the node is left alone before it counts as idle.
const rest = 5 * time.Second

func (n *node) measure(ctx context.Context) error {
	if _, err := n.round(ctx, 1, nil); err != nil { // brings the image
		return err
	}
	if err := n.idling(ctx, 0); err != nil {
		return err
	}
	var running, gone []time.Duration
	for range n.singles {
		t, err := n.round(ctx, 1, nil)
		if err != nil {
			return err
		}
		running, gone = append(running, t.running), append(gone, t.gone)
	}
	for _, f := range []struct {
		name   string
		values []time.Duration
	}{{"one pod: create → Running", running}, {"one pod: delete → gone", gone}} {
		n.add(f.name+", p50, s", quantile(f.values, 0.5).Seconds())
		n.add(f.name+", p99, s", quantile(f.values, 0.99).Seconds())
	}
	for _, size := range n.sizes {
		before, err := bench.UsageOf([]int{n.pid})
		if err != nil {
			return err
		}
		t, err := n.round(ctx, size, nil)
		if err != nil {
			return err
		}
		after, err := bench.UsageOf([]int{n.pid})
		if err != nil {
			return err
		}
		n.add(fmt.Sprintf("%d pods at once: all Running, s", size), t.running.Seconds())
		n.add(fmt.Sprintf("%d pods at once: deleted, all gone, s", size), t.gone.Seconds())
		n.add(fmt.Sprintf("%d pods at once: CPU of the agent, s", size), (after.CPU - before.CPU).Seconds())
	}
	for _, size := range []int{30, 110} {
		if _, err := n.round(ctx, size, func(ctx context.Context) error { return n.idling(ctx, size) }); err != nil {
			return err
		}
	}
	return nil
}

// quantile of values that are not empty; of few values the upper ones are the largest.
func quantile(values []time.Duration, q float64) time.Duration {
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

// idling measures what an agent uses that has nothing to do.
func (n *node) idling(ctx context.Context, pods int) error {
	if err := bench.Pause(ctx, rest); err != nil {
		return err
	}
	before, err := bench.UsageOf([]int{n.pid})
	if err != nil {
		return err
	}
	wakeups, err := bench.Wakeups(n.pid)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := bench.Pause(ctx, n.idle); err != nil {
		return err
	}
	after, err := bench.UsageOf([]int{n.pid})
	if err != nil {
		return err
	}
	now, err := bench.Wakeups(n.pid)
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	n.add(fmt.Sprintf("idle with %d pods: memory, MB", pods), float64(after.RSS)/(1<<20))
	n.add(fmt.Sprintf("idle with %d pods: of it anonymous, MB", pods), float64(after.Anonymous)/(1<<20))
	n.add(fmt.Sprintf("idle with %d pods: CPU, ms/s", pods), (after.CPU-before.CPU).Seconds()*1000/seconds)
	n.add(fmt.Sprintf("idle with %d pods: wake-ups/s", pods), float64(now-wakeups)/seconds)
	return nil
}

// took is how long a round's pods took until the last one ran, and until the last one was gone.
type took struct{ running, gone time.Duration }

// round makes pods, does something while they run, and deletes them.
func (n *node) round(ctx context.Context, size int, meanwhile func(context.Context) error) (t took, err error) {
	pods := n.client.CoreV1().Pods(namespace)
	// An informer, since the server ends a watch that it finds slow, which on a busy machine may be any.
	ours := cache.NewFilteredListWatchFromClient(n.client.CoreV1().RESTClient(), "pods", namespace, func(o *metav1.ListOptions) { o.LabelSelector = "app=bench" })
	_, informer, events, _ := watchtools.NewIndexerInformerWatcherWithLogger(klog.FromContext(ctx), ours, &corev1.Pod{})
	defer events.Stop()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return t, fmt.Errorf("list pods: %w", ctx.Err())
	}
	began := time.Now()
	running := map[string]bool{}
	err = both(ctx, size, func(ctx context.Context, i int) error {
		_, err := pods.Create(ctx, pod(i), metav1.CreateOptions{})
		return err
	}, events, func(_ watch.EventType, p *corev1.Pod) bool {
		if p.Status.Phase == corev1.PodRunning {
			running[p.Name] = true
		}
		return len(running) == size
	})
	if err != nil {
		return t, fmt.Errorf("%d of %d pods run: %w", len(running), size, err)
	}
	t.running = time.Since(began)
	if meanwhile != nil {
		if err := meanwhile(ctx); err != nil {
			return t, err
		}
	}
	began = time.Now()
	err = both(ctx, size, func(ctx context.Context, i int) error {
		return pods.Delete(ctx, pod(i).Name, metav1.DeleteOptions{})
	}, events, func(kind watch.EventType, p *corev1.Pod) bool {
		if kind == watch.Deleted {
			delete(running, p.Name)
		}
		return len(running) == 0
	})
	t.gone = time.Since(began)
	return t, err
}

// both does something for each pod and meanwhile follows events until enough is true.
func both(ctx context.Context, size int, do func(context.Context, int) error, events watch.Interface, enough func(watch.EventType, *corev1.Pod) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return bench.Parallel(ctx, size, do) })
	group.Go(func() error { return follow(ctx, events, enough) })
	return group.Wait()
}

// follow hands on events until enough is true.
func follow(ctx context.Context, events watch.Interface, enough func(watch.EventType, *corev1.Pod) bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, open := <-events.ResultChan():
			pod, ok := event.Object.(*corev1.Pod)
			if !open || !ok {
				return fmt.Errorf("the watch of pods ended: %v", event.Object)
			}
			if enough(event.Type, pod) {
				return nil
			}
		}
	}
}

// pod runs a container that ends at once on SIGTERM, as upstream's figures were taken with.
func pod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", i), Labels: map[string]string{"app": "bench"}},
		Spec:       corev1.PodSpec{NodeName: interop.NodeName, Containers: []corev1.Container{{Name: "pause", Image: images.Pause}}},
	}
}
