package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Health is a cluster at a glance. Pods that have completed their work are not counted.
type Health struct {
	API               string // "ready", or why it is not
	NodesReady        int
	Pods, PodsRunning int
}

// Health asks the API server; what does not answer within two seconds counts as down.
func (c *Cluster) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	api, err := c.connect()
	if err != nil {
		return Health{API: err.Error()}
	}
	if err := api.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return Health{API: "not ready: " + err.Error()}
	}
	health := Health{API: "ready"}
	nodes, err := api.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return Health{API: err.Error()}
	}
	for i := range nodes.Items {
		if nodeReady(&nodes.Items[i]) {
			health.NodesReady++
		}
	}
	pods, err := api.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return Health{API: err.Error()}
	}
	for i := range pods.Items {
		switch pods.Items[i].Status.Phase {
		case corev1.PodSucceeded:
		case corev1.PodRunning:
			health.Pods++
			health.PodsRunning++
		default:
			health.Pods++
		}
	}
	return health
}
