// Command bench drives an API server through what clusters do most, and prints throughput, latency and what each operation cost the
// server. It takes any server by kubeconfig, so ours and upstream's are measured by the same client.
//
//	go run ./apiserver/bench --kubeconfig F --pid $(pgrep -f cmd/apiserver) [--pid PID-of-etcd]
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/internal/apiclient"
)

type options struct {
	kubeconfig string
	pids       []int
	workers    int
	duration   time.Duration
	pods       int
	watchers   int
}

func main() {
	o := options{}
	flags := pflag.NewFlagSet("bench", pflag.ExitOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "The cluster to measure.")
	flags.IntSliceVar(&o.pids, "pid", nil, "Process of the server, and of its etcd: their CPU time and memory are counted.")
	flags.IntVar(&o.workers, "workers", 32, "Concurrent clients.")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "How long each case runs.")
	flags.IntVar(&o.pods, "pods", 1000, "Pods that lists return.")
	flags.IntVar(&o.watchers, "watchers", 100, "Watchers that each event goes to.")
	_ = flags.Parse(os.Args[1:]) // ExitOnError
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// benchCase is one line of the table. Operation i of a worker must be independent of all others.
type benchCase struct {
	name    string
	workers int // 0: as many as the options say
	prepare func(ctx context.Context) error
	do      func(ctx context.Context, worker, i int) error
}

type bench struct {
	options
	client    kubernetes.Interface
	namespace string
}

func run(ctx context.Context, o options) error {
	config, err := apiclient.FromKubeconfig(o.kubeconfig, "bench")
	if err != nil {
		return err
	}
	b := &bench{options: o}
	if b.client, err = apiclient.Clientset(config); err != nil {
		return err
	}
	if err := b.setUp(ctx); err != nil {
		return err
	}
	defer b.tearDown() //nolint:contextcheck // also after an interrupt
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer out.Flush()
	fmt.Fprintln(out, "case\tper s\tp50 ms\tp99 ms\tCPU ms/op\tRSS MB\t")
	for _, c := range b.cases() {
		result, err := b.measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.1f\t%.1f\t%.2f\t%.0f\t\n", c.name, result.rate, ms(result.p50), ms(result.p99), ms(result.cpu), result.rss)
		out.Flush()
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (b *bench) setUp(ctx context.Context) error {
	ns, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create a namespace: %w", err)
	}
	b.namespace = ns.Name
	_, err = b.client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create a service account: %w", err)
	}
	return nil
}

// tearDown deletes the namespace; without controllers its content stays, which a benchmark's cluster does not mind.
func (b *bench) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.client.CoreV1().Namespaces().Delete(ctx, b.namespace, metav1.DeleteOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, "bench: delete the namespace:", err)
	}
}

func (b *bench) cases() []benchCase {
	maps, pods := b.client.CoreV1().ConfigMaps(b.namespace), b.client.CoreV1().Pods(b.namespace)
	name := func(worker int) string { return fmt.Sprintf("c-%d", worker) }
	return []benchCase{
		{name: "create ConfigMap", do: func(ctx context.Context, worker, i int) error {
			_, err := maps.Create(ctx, configMap(fmt.Sprintf("n-%d-%d", worker, i)), metav1.CreateOptions{})
			return err
		}},
		{name: "create ConfigMap, 1 worker", workers: 1, do: func(ctx context.Context, _, i int) error {
			_, err := maps.Create(ctx, configMap(fmt.Sprintf("s-%d", i)), metav1.CreateOptions{})
			return err
		}},
		{
			name: "get ConfigMap",
			prepare: func(ctx context.Context) error {
				return b.each(b.workers, func(i int) error {
					_, err := maps.Create(ctx, configMap(name(i)), metav1.CreateOptions{})
					return err
				})
			},
			do: func(ctx context.Context, worker, _ int) error {
				_, err := maps.Get(ctx, name(worker), metav1.GetOptions{})
				return err
			},
		},
		{name: "get ConfigMap, rv=0", do: func(ctx context.Context, worker, _ int) error {
			_, err := maps.Get(ctx, name(worker), metav1.GetOptions{ResourceVersion: "0"})
			return err
		}},
		{name: "patch ConfigMap", do: func(ctx context.Context, worker, i int) error {
			body := fmt.Appendf(nil, `{"data":{"i":"%d"}}`, i)
			_, err := maps.Patch(ctx, name(worker), types.MergePatchType, body, metav1.PatchOptions{})
			return err
		}},
		{name: "apply ConfigMap", do: func(ctx context.Context, worker, i int) error {
			body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a-%d"},"data":{"i":"%d"}}`, worker, i)
			_, err := maps.Patch(ctx, fmt.Sprintf("a-%d", worker), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "bench"})
			return err
		}},
		{name: "create Pod", do: func(ctx context.Context, worker, i int) error {
			_, err := pods.Create(ctx, pod(fmt.Sprintf("n-%d-%d", worker, i), "created"), metav1.CreateOptions{})
			return err
		}},
		{
			name: fmt.Sprintf("list %d Pods", b.pods), workers: 4,
			prepare: func(ctx context.Context) error {
				return b.each(b.pods, func(i int) error {
					_, err := pods.Create(ctx, pod(fmt.Sprintf("l-%d", i), "listed"), metav1.CreateOptions{})
					return err
				})
			},
			do: func(ctx context.Context, _, _ int) error {
				list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "set=listed"})
				if err == nil && len(list.Items) != b.pods {
					err = fmt.Errorf("listed %d pods", len(list.Items))
				}
				return err
			},
		},
		{name: "list Pods in 10 pages", workers: 4, do: func(ctx context.Context, _, _ int) error {
			options := metav1.ListOptions{Limit: int64(b.pods / 10)}
			for range 10 {
				list, err := pods.List(ctx, options)
				if err != nil || list.Continue == "" {
					return err
				}
				options.Continue = list.Continue
			}
			return nil
		}},
		b.fanOut(),
	}
}

// fanOut counts events that arrive: each write reaches every watcher.
func (b *bench) fanOut() benchCase {
	maps := b.client.CoreV1().ConfigMaps(b.namespace)
	var seen sync.Map // value -> *sync.WaitGroup
	return benchCase{
		name: fmt.Sprintf("write seen by %d watchers", b.watchers), workers: 4,
		prepare: func(ctx context.Context) error {
			return b.each(b.watchers, func(int) error {
				w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "watched=yes"})
				if err != nil {
					return err
				}
				go func() {
					for event := range w.ResultChan() {
						if m, ok := event.Object.(*corev1.ConfigMap); ok {
							if group, ok := seen.Load(m.Name); ok {
								group.(*sync.WaitGroup).Done()
							}
						}
					}
				}()
				return nil
			})
		},
		do: func(ctx context.Context, worker, i int) error {
			m := configMap(fmt.Sprintf("w-%d-%d", worker, i))
			m.Labels = map[string]string{"watched": "yes"}
			group := &sync.WaitGroup{}
			group.Add(b.watchers)
			seen.Store(m.Name, group)
			if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
				return err
			}
			group.Wait()
			return nil
		},
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": "a value of an ordinary length, as there are many"}}
}

func pod(name, set string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"set": set, "app": "bench"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/image:1"}}, NodeName: "none"},
	}
}

// each calls f for 0…n-1 by all workers and returns the errors.
func (b *bench) each(n int, f func(i int) error) error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, b.workers)
	for w := range b.workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = f(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

type result struct {
	rate          float64
	p50, p99, cpu time.Duration
	rss           float64
}

func (b *bench) measure(ctx context.Context, c benchCase) (result, error) {
	if c.prepare != nil {
		if err := c.prepare(ctx); err != nil {
			return result{}, fmt.Errorf("prepare: %w", err)
		}
	}
	workers := c.workers
	if workers == 0 {
		workers = b.workers
	}
	before, err := usageOf(b.pids)
	if err != nil {
		return result{}, err
	}
	latencies, errs := make([][]time.Duration, workers), make([]error, workers)
	begin := time.Now()
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := 0; time.Since(begin) < b.duration && ctx.Err() == nil; i++ {
				at := time.Now()
				if errs[w] = c.do(ctx, w, i); errs[w] != nil {
					return
				}
				latencies[w] = append(latencies[w], time.Since(at))
			}
		})
	}
	group.Wait()
	took := time.Since(begin)
	after, err := usageOf(b.pids)
	if err := errors.Join(append(errs, err)...); err != nil {
		return result{}, err
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return result{}, errors.New("no operation ended in time")
	}
	slices.Sort(all)
	return result{
		rate: float64(len(all)) / took.Seconds(), p50: all[len(all)/2], p99: all[len(all)*99/100],
		cpu: (after.cpu - before.cpu) / time.Duration(len(all)), rss: float64(after.rss) / (1 << 20),
	}, nil
}
