package main

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// benchCase is one line of the table. An operation must be independent of all others that run with it.
type benchCase struct {
	name    string
	workers int // 0: as many as the options say
	// prepare runs once on each server, before the first round. What it starts ends with ctx, after the last round.
	prepare func(ctx context.Context, s *server) error
	do      func(ctx context.Context, s *server, worker, i int) error
}

func (b *benchmark) list() []benchCase {
	name := func(worker int) string { return fmt.Sprintf("c-%d", worker) }
	patch := func(ctx context.Context, s *server, worker int, name string, kind types.PatchType, body []byte) error {
		options := metav1.PatchOptions{FieldManager: "bench"}
		return s.client(worker).Patch(kind).Namespace(s.namespace).Resource("configmaps").Name(name).
			VersionedParams(&options, scheme.ParameterCodec).Body(body).Do(ctx).Error()
	}
	get := func(version string) func(context.Context, *server, int, int) error {
		options := metav1.GetOptions{ResourceVersion: version}
		return func(ctx context.Context, s *server, worker, _ int) error {
			return s.client(worker).Get().Namespace(s.namespace).Resource("configmaps").Name(name(worker)).
				VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Error()
		}
	}
	create := func(ctx context.Context, s *server, worker, _ int) error {
		return s.create(ctx, worker, "configmaps", configMap(s.newName()))
	}
	some := func(ctx context.Context, s *server) error {
		return each(b.workers, b.workers, func(worker, i int) error { return s.create(ctx, worker, "configmaps", configMap(name(i))) })
	}
	cases := []benchCase{
		{name: "create ConfigMap", do: create},
		{name: "create ConfigMap, 1 worker", workers: 1, do: create},
		{name: "get ConfigMap", prepare: some, do: get("")},
		{name: "get ConfigMap from the cache (rv=0)", prepare: ignoreExists(some), do: get("0")},
		{name: "patch ConfigMap", prepare: ignoreExists(some), do: func(ctx context.Context, s *server, worker, _ int) error {
			return patch(ctx, s, worker, name(worker), types.MergePatchType, fmt.Appendf(nil, `{"data":{"i":%q}}`, s.newName()))
		}},
		{name: "apply ConfigMap", do: func(ctx context.Context, s *server, worker, _ int) error {
			name := fmt.Sprintf("a-%d", worker)
			body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"i":%q}}`, name, s.newName())
			return patch(ctx, s, worker, name, types.ApplyPatchType, body)
		}},
		{name: "create Pod", do: func(ctx context.Context, s *server, worker, i int) error {
			return s.create(ctx, worker, "pods", pod(s.newName(), "created", i))
		}},
		b.listAll(), b.listPages(),
	}
	for _, watchers := range b.fanOut {
		cases = append(cases, fanOut(watchers))
	}
	return cases
}

func (b *benchmark) listAll() benchCase {
	return benchCase{
		name: fmt.Sprintf("list %d Pods", b.listed), workers: 4, prepare: b.storeListed,
		do: func(ctx context.Context, s *server, worker, _ int) error {
			n, _, err := s.page(ctx, worker, metav1.ListOptions{LabelSelector: "set=listed"})
			if err == nil && n != b.listed {
				err = fmt.Errorf("listed %d pods", n)
			}
			return err
		},
	}
}

// listPages walks through all pods, as an informer of an old client does when it starts.
func (b *benchmark) listPages() benchCase {
	const pages = 100
	limit := int64(b.stored / pages)
	return benchCase{
		name: fmt.Sprintf("list Pods, %d pages of %d", pages, limit), workers: 4, prepare: b.store,
		do: func(ctx context.Context, s *server, worker, _ int) error {
			options := metav1.ListOptions{Limit: limit}
			for range pages {
				n, token, err := s.page(ctx, worker, options)
				if err != nil {
					return err
				}
				if n != int(limit) {
					return fmt.Errorf("a page has %d pods", n)
				}
				if options.Continue = token; token == "" {
					return nil
				}
			}
			return nil
		},
	}
}

func (b *benchmark) storeListed(ctx context.Context, s *server) error {
	return each(b.workers, b.listed, func(worker, i int) error {
		return s.create(ctx, worker, "pods", pod(fmt.Sprintf("l-%d", i), "listed", i))
	})
}

// fanOut writes what many watchers see. An operation is one write, delivered to all of them.
func fanOut(watchers int) benchCase {
	label := fmt.Sprintf("watched-%d", watchers)
	arrivals := map[*server]*arrival{}
	return benchCase{
		name: fmt.Sprintf("write seen by %d watchers", watchers), workers: 4,
		prepare: func(ctx context.Context, s *server) error {
			a := newArrival(int64(watchers))
			arrivals[s] = a
			return each(8, watchers, func(_, i int) error {
				return s.watch(ctx, i, metav1.ListOptions{LabelSelector: label + "=yes"}, a.event)
			})
		},
		do: func(ctx context.Context, s *server, worker, _ int) error {
			m := configMap(s.newName())
			m.Labels = map[string]string{label: "yes"}
			if err := s.create(ctx, worker, "configmaps", m); err != nil {
				return err
			}
			arrivals[s].wait()
			return nil
		},
	}
}

// arrival counts events. A writer waits until all that was written by then has reached all watchers.
type arrival struct {
	watchers int64

	mu              sync.Mutex
	all             *sync.Cond
	written, events int64
}

func newArrival(watchers int64) *arrival {
	a := &arrival{watchers: watchers}
	a.all = sync.NewCond(&a.mu)
	return a
}

func (a *arrival) event() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events++; a.events%a.watchers == 0 {
		a.all.Broadcast()
	}
}

func (a *arrival) wait() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written++
	for due := a.written * a.watchers; a.events < due; {
		a.all.Wait()
	}
}

// pod is of the size that pods of a Deployment have.
func pod(name, set string, i int) *corev1.Pod {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"set": set, "app": "bench", "pod-template-hash": "7d4b9c6f58"},
			Annotations: map[string]string{"example.com/checksum": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "bench-7d4b9c6f58", UID: "5e6e6f0e-2f8f-4c5e-9d5b-3f1f6c2d7a10", Controller: new(true),
			}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node-%d", i%300),
			Containers: []corev1.Container{{
				Name: "server", Image: "registry.example/team/image:1.2.3", Args: []string{"--listen=:8080", "--log-level=info"},
				Env:       []corev1.EnvVar{{Name: "A", Value: "one"}, {Name: "B", Value: "two"}},
				Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				Resources: corev1.ResourceRequirements{Requests: requests, Limits: requests}, ReadinessProbe: probe, LivenessProbe: probe,
			}},
		},
	}
}
