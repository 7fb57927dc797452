package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/internal/bench"
)

// benchCase is what a controller manager has to do: steps that are measured one after the other, each until all is as it should be.
type benchCase struct {
	name    string
	title   string
	hollow  bool // pods are scheduled and run
	prepare func(context.Context, *plane) error
	steps   []step
}

type step struct {
	name string
	run  func(context.Context, *plane) error
}

const (
	replicas    = 5000
	deployments = 1000
	services    = 500
	endpoints   = 20 // of each Service
	groups      = 10 // of pods: the Services of a group have the same
	waves       = 4
	things      = 5000 // ConfigMaps, and as many Secrets
)

var cases = []benchCase{
	{
		name: "deployment", title: "one Deployment", hollow: true,
		prepare: func(ctx context.Context, p *plane) error { return p.deploy(ctx, "large", 0) },
		steps: []step{
			{fmt.Sprintf("0 → %d pods", replicas), func(ctx context.Context, p *plane) error { return p.scaleTo(ctx, p.sized(replicas)) }},
			{fmt.Sprintf("%d → 0 pods", replicas), func(ctx context.Context, p *plane) error { return p.scaleTo(ctx, 0) }},
		},
	},
	{
		name: "deployments", title: fmt.Sprintf("%d Deployments", deployments), hollow: true,
		prepare: func(context.Context, *plane) error { return nil },
		steps:   []step{{"created, all available", createDeployments}},
	},
	{
		name: "services", title: fmt.Sprintf("%d Services × %d endpoints", services, endpoints),
		prepare: createEndpoints,
		steps: []step{
			{"created, all endpoints in slices", createServices},
			{fmt.Sprintf("%d × all endpoints not ready or ready", waves), churn},
		},
	},
	{
		name: "namespace", title: fmt.Sprintf("namespace of %d objects", 2*things),
		prepare: fillNamespace,
		steps:   []step{{"deleted", deleteNamespace}},
	},
}

func labels(app string) map[string]string { return map[string]string{"app": app} }

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels(app)},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)), AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{Name: "main", Image: "image", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

func (p *plane) deploy(ctx context.Context, name string, replicas int) error {
	_, err := p.Client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels(name)}, Template: template(name)},
	}, metav1.CreateOptions{})
	return err
}

func (p *plane) scaleTo(ctx context.Context, replicas int) error {
	body := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	d, err := p.Client.AppsV1().Deployments(namespace).Patch(ctx, "large", types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	return p.until(ctx, func(ctx context.Context) (bool, error) {
		now, err := p.Client.AppsV1().Deployments(namespace).Get(ctx, "large", metav1.GetOptions{})
		if err != nil || now.Status.ObservedGeneration < d.Generation || int(now.Status.AvailableReplicas) != replicas || int(now.Status.Replicas) != replicas {
			return false, err
		}
		if replicas > 0 {
			return true, nil
		}
		pods, err := p.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	})
}

func createDeployments(ctx context.Context, p *plane) error {
	n := p.sized(deployments)
	if err := bench.Parallel(ctx, n, func(ctx context.Context, i int) error { return p.deploy(ctx, fmt.Sprintf("web-%d", i), 1) }); err != nil {
		return err
	}
	return p.until(ctx, func(ctx context.Context) (bool, error) {
		list, err := p.Client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		available := 0
		for i := range list.Items {
			available += int(list.Items[i].Status.AvailableReplicas)
		}
		return available == n, nil
	})
}

func podName(group, i int) string { return fmt.Sprintf("backend-%d-%d", group, i) }

// createEndpoints makes the pods behind the Services; nobody runs them, so their state is what the benchmark writes.
func createEndpoints(ctx context.Context, p *plane) error {
	if _, err := p.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	return bench.Parallel(ctx, groups*endpoints, func(ctx context.Context, i int) error {
		group, n := i/endpoints, i%endpoints
		t := template(fmt.Sprintf("backend-%d", group))
		pod := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
		pod.Name, pod.Spec.NodeName = podName(group, n), "elsewhere"
		pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		if _, err := p.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		return p.setReady(ctx, group, n, true)
	})
}

func (p *plane) setReady(ctx context.Context, group, i int, ready bool) error {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	address := fmt.Sprintf("10.244.%d.%d", group, i+1)
	body := fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}],"conditions":[{"type":"Ready","status":%q}]}}`, address, address, status)
	_, err := p.Client.CoreV1().Pods(namespace).Patch(ctx, podName(group, i), types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}

func createServices(ctx context.Context, p *plane) error {
	err := bench.Parallel(ctx, p.sized(services), func(ctx context.Context, i int) error {
		_, err := p.Client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("service-%d", i)},
			Spec: corev1.ServiceSpec{
				ClusterIP: corev1.ClusterIPNone, Selector: labels(fmt.Sprintf("backend-%d", i%groups)), Ports: []corev1.ServicePort{{Port: 80}},
			},
		}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return p.slicesAre(ctx, true)
}

// churn makes all pods not ready and ready again, and waits each time until every slice shows it.
func churn(ctx context.Context, p *plane) error {
	for wave := range waves {
		ready := wave%2 == 1
		err := bench.Parallel(ctx, groups*endpoints, func(ctx context.Context, i int) error { return p.setReady(ctx, i/endpoints, i%endpoints, ready) })
		if err != nil {
			return err
		}
		if err := p.slicesAre(ctx, ready); err != nil {
			return err
		}
	}
	return nil
}

func (p *plane) slicesAre(ctx context.Context, ready bool) error {
	want := p.sized(services) * endpoints
	return p.until(ctx, func(ctx context.Context) (bool, error) {
		list, err := p.Client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		n := 0
		for i := range list.Items {
			n += countReady(&list.Items[i], ready)
		}
		return n == want, nil
	})
}

func countReady(slice *discoveryv1.EndpointSlice, ready bool) int {
	n := 0
	for i := range slice.Endpoints {
		if is := slice.Endpoints[i].Conditions.Ready; is != nil && *is == ready {
			n++
		}
	}
	return n
}

func fillNamespace(ctx context.Context, p *plane) error {
	return bench.Parallel(ctx, p.sized(things), func(ctx context.Context, i int) error {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("thing-%d", i)}
		if _, err := p.Client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := p.Client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{})
		return err
	})
}

func deleteNamespace(ctx context.Context, p *plane) error {
	if err := p.Client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return p.until(ctx, func(ctx context.Context) (bool, error) {
		_, err := p.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreNotFound(err)
	})
}
