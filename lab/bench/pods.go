package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/podstate"
	"keelson.dev/lab/cluster"
	"keelson.dev/lab/images"
)

// pods measures Deployments of one and of twenty pods, from the write to what the watch shows.
func (b *bench) pods(ctx context.Context) error {
	config, err := apiclient.FromKubeconfig(filepath.Join(cluster.Home(), "clusters", b.name, "kubeconfig"), "bench")
	if err != nil {
		return err
	}
	client, err := apiclient.Clientset(config)
	if err != nil {
		return err
	}
	// The first round puts the image on the nodes and does not count.
	if err := b.round(ctx, client, 4, "", "", ""); err != nil {
		return err
	}
	for range b.runs {
		err := b.round(ctx, client, 1, "one-pod Deployment: create → Running", "one-pod Deployment: create → Ready", "one-pod Deployment: delete → gone")
		if err != nil {
			return err
		}
	}
	for range b.runs {
		if err := b.round(ctx, client, 20, "", "20 replicas: all Ready", "20 replicas: delete → all gone"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) round(ctx context.Context, client kubernetes.Interface, replicas int32, running, ready, gone string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	pods, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{LabelSelector: "app=bench"})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer pods.Stop()
	state := map[string]*corev1.Pod{}
	until := func(what string, began time.Time, enough func() bool) error {
		for !enough() {
			event, open := <-pods.ResultChan()
			if !open {
				return fmt.Errorf("%s: the watch ended: %w", what, ctx.Err())
			}
			pod, isPod := event.Object.(*corev1.Pod)
			if !isPod {
				return fmt.Errorf("%s: the watch failed: %v", what, event.Object)
			}
			state[pod.Name] = pod
			if event.Type == "DELETED" {
				delete(state, pod.Name)
			}
		}
		if what != "" {
			b.record(what, time.Since(began))
		}
		return nil
	}
	began := time.Now()
	if _, err := client.AppsV1().Deployments("default").Create(ctx, deployment(replicas), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create deployment: %w", err)
	}
	if err := until(running, began, func() bool { return count(state, isRunning) == int(replicas) }); err != nil {
		return err
	}
	if err := until(ready, began, func() bool { return count(state, podstate.Ready) == int(replicas) }); err != nil {
		return err
	}
	began = time.Now()
	background := metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	if err := client.AppsV1().Deployments("default").Delete(ctx, "bench", background); err != nil {
		return fmt.Errorf("delete deployment: %w", err)
	}
	return until(gone, began, func() bool { return len(state) == 0 })
}

// deployment runs containers that exit at once on SIGTERM, as upstream's figures were taken with.
func deployment(replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "bench"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "pause", Image: images.Pause}}},
			},
		},
	}
}

func count(pods map[string]*corev1.Pod, is func(*corev1.Pod) bool) int {
	n := 0
	for _, pod := range pods {
		if is(pod) {
			n++
		}
	}
	return n
}

func isRunning(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning }
