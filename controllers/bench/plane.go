package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/bench"
	"keelson.dev/internal/pki"
)

const (
	namespace   = "bench"
	nodes       = 50
	podsPerNode = 250
)

// plane is a control plane with a controller manager to measure, the program that was started last.
type plane struct {
	*bench.Plane
	scale float64
}

// sized is a number of objects at the scale of this run.
func (p *plane) sized(n int) int { return max(1, int(float64(n)*p.scale)) }

// once runs a case on a control plane of its own.
func (s *settings) once(ctx context.Context, c benchCase, manager string) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	k, err := s.Start(ctx, bench.Keelson)
	if err != nil {
		return result{}, err
	}
	p := &plane{k, s.scale}
	defer func() {
		logs := s.logs
		if logs != "" {
			logs = filepath.Join(logs, c.name+"-"+manager)
		}
		k.Stop(logs)
	}()
	if err := s.populate(ctx, p, c); err != nil {
		return result{}, err
	}
	if err := s.startManager(ctx, p, c, manager); err != nil {
		return result{}, err
	}
	if c.hollow {
		if err := p.until(ctx, func(ctx context.Context) (bool, error) {
			list, err := k.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err == nil && len(list.Items) == nodes && !anyTainted(list.Items), err
		}); err != nil {
			return result{}, fmt.Errorf("nodes: %w", err)
		}
	}
	if err := c.prepare(ctx, p); err != nil {
		return result{}, fmt.Errorf("prepare: %w", err)
	}
	before, err := k.Last(1)
	if err != nil {
		return result{}, err
	}
	var r result
	for _, step := range c.steps {
		began := time.Now()
		if err := step.run(ctx, p); err != nil {
			return result{}, fmt.Errorf("%s: %w", step.name, err)
		}
		r.steps = append(r.steps, time.Since(began))
		after, err := k.Last(1)
		if err != nil {
			return result{}, err
		}
		r.cpu, r.peak, r.anonymous = after.CPU-before.CPU, after.Peak, max(r.anonymous, after.Anonymous)
	}
	return r, nil
}

// populate starts scheduler and nodes, if the case has pods that run, and makes the namespace.
func (s *settings) populate(ctx context.Context, p *plane, c benchCase) error {
	if c.hollow {
		scheduler, err := p.User("scheduler", pki.Request{CommonName: "system:kube-scheduler"})
		if err != nil {
			return err
		}
		kubelets, err := p.User("hollow", pki.Request{CommonName: "hollow", Organizations: []string{"system:masters"}})
		if err != nil {
			return err
		}
		if err := p.Run(filepath.Join(s.Ours, "scheduler"), "scheduler", "--kubeconfig="+scheduler, "--secure-port=0", "--leader-elect=false"); err != nil {
			return err
		}
		if err := p.Run(filepath.Join(s.Ours, "keelson"), "hollow", "hollow", "--kubeconfig="+kubelets, fmt.Sprintf("--nodes=%d", nodes),
			"--pod-cidr=10.244.0.0/16", fmt.Sprintf("--capacity=pods=%d,cpu=1000,memory=1000Gi,ephemeral-storage=1000Gi", podsPerNode), "--events=false", "--impersonate=false"); err != nil {
			return err
		}
	}
	_, err := p.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	return err
}

// startManager starts a controller manager with the rights of an administrator and without client-side limits, and waits until it works.
func (s *settings) startManager(ctx context.Context, p *plane, c benchCase, manager string) error {
	path, err := p.User("manager", pki.Request{CommonName: "manager", Organizations: []string{"system:masters"}})
	if err != nil {
		return err
	}
	program, args := filepath.Join(s.Ours, "controller-manager"), []string{"--kubeconfig=" + path, "--leader-elect=false", "--secure-port=0"}
	if !c.hollow { // pods are on a node that nobody keeps alive
		args = append(args, "--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller")
	}
	if manager == bench.Upstream {
		program, args = filepath.Join(s.Upstream, "kube-controller-manager"), append(args, "--kube-api-qps=10000", "--kube-api-burst=10000")
	}
	if err := p.Run(program, "manager", args...); err != nil {
		return err
	}
	return p.until(ctx, func(ctx context.Context) (bool, error) {
		_, err := p.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func anyTainted(list []corev1.Node) bool {
	for i := range list {
		if len(list[i].Spec.Taints) > 0 {
			return true
		}
	}
	return false
}

// until asks every 50 ms until the answer is yes.
func (p *plane) until(ctx context.Context, ask func(context.Context) (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := ask(ctx); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
