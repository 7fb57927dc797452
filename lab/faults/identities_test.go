//go:build e2e

package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/lab/cluster"
	"keelson.dev/lab/images"
)

const (
	identity   = "identity" // name and label of the StatefulSet
	identities = 6
	// patienceToMove is how long pods may take to go on elsewhere: while a node is away they cannot leave it.
	patienceToMove = 10 * time.Second
)

// movers is a StatefulSet whose pods are driven from node to node, and a census of what really runs.
type movers struct {
	client kubernetes.Interface
	census *census
	end    context.CancelFunc
	work   sync.WaitGroup
	failed error        // of the census
	drains atomic.Int32 // that were finished
}

// startMovers returns once all pods run.
func startMovers(ctx context.Context, config *rest.Config, nodes []cluster.Member) (*movers, error) {
	config = rest.CopyConfig(config)
	config.Timeout = patience
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	m := &movers{client: client, census: newCensus("/proc", *name), end: end}
	if _, err := client.AppsV1().StatefulSets("default").Create(ctx, identitySet(), metav1.CreateOptions{}); err != nil {
		end()
		return nil, fmt.Errorf("create stateful set: %w", err)
	}
	m.work.Go(func() { m.failed = m.census.run(ctx) })
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, recovery, true, func(ctx context.Context) (bool, error) {
		set, err := client.AppsV1().StatefulSets("default").Get(ctx, identity, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == identities, nil
	})
	if err != nil {
		end()
		return nil, fmt.Errorf("pods do not run: %w", err)
	}
	m.work.Go(func() { m.drive(ctx, nodes) })
	return m, nil
}

// identitySet has pods that leave a dead node soon, and that take a while to end: one whose name was given away before would be seen.
func identitySet() *appsv1.StatefulSet {
	labels := map[string]string{"app": identity}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	leave := func(taint string) corev1.Toleration {
		return corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(1))}
	}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: identity},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(identities)), PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: new(int64(3)), AutomountServiceAccountToken: new(false),
					Tolerations: []corev1.Toleration{leave(corev1.TaintNodeNotReady), leave(corev1.TaintNodeUnreachable)},
					TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
						MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
						LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
					}},
					Containers: []corev1.Container{{
						Name: "demo", Image: images.Demo,
						Env:       []corev1.EnvVar{field(podVariable, "metadata.name"), field(uidVariable, "metadata.uid")},
						Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}},
					}},
				},
			},
		},
	}
}

// drive drains one node after the other. What fails is part of the test.
func (m *movers) drive(ctx context.Context, nodes []cluster.Member) {
	for turn := 0; ctx.Err() == nil; turn++ {
		node := nodes[turn%len(nodes)].Name
		if m.drain(ctx, node) == nil {
			m.drains.Add(1)
		}
		_ = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			return m.cordon(ctx, node, false) == nil, nil
		})
	}
}

// drain closes a node, deletes its pods and waits until all pods run on others.
func (m *movers) drain(ctx context.Context, node string) error {
	if err := m.cordon(ctx, node, true); err != nil {
		return err
	}
	pods, err := m.pods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if pod.Spec.NodeName != node {
			continue
		}
		if err := m.client.CoreV1().Pods("default").Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, patienceToMove, false, func(ctx context.Context) (bool, error) {
		pods, err := m.pods(ctx)
		elsewhere := func(pod corev1.Pod) bool { return pod.Spec.NodeName != node && pod.Status.Phase == corev1.PodRunning }
		return err == nil && len(pods) == identities && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !elsewhere(p) }), nil
	})
}

func (m *movers) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := m.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + identity})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (m *movers) cordon(ctx context.Context, node string, closed bool) error {
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
	_, err := m.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// stop lets pods leave as many nodes as there are, now that all is well, and ends.
func (m *movers) stop(ctx context.Context, nodes int) error {
	enough := m.drains.Load() + int32(nodes)
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, recovery, true, func(context.Context) (bool, error) {
		return m.drains.Load() >= enough, nil
	})
	m.end()
	m.work.Wait()
	if err != nil {
		return fmt.Errorf("pods do not leave their nodes when all is well: %w", err)
	}
	return m.failed
}

func (m *movers) check(t *testing.T) {
	t.Helper()
	c := m.census
	moved := moves(c.lives)
	t.Logf("%d processes of %d pod names seen in %d scans (%s apart at most); nodes drained %d times, moves to another node by pod: %v",
		len(c.lives), len(moved), c.scans, c.gap.Round(time.Millisecond), m.drains.Load(), moved)
	for _, pair := range together(c.lives) {
		t.Error(pair)
	}
	total := 0
	for i := range identities {
		pod := fmt.Sprintf("%s-%d", identity, i)
		n, seen := moved[pod]
		if !seen {
			t.Errorf("no process of pod %s was seen", pod)
		}
		total += n
	}
	if total < identities {
		t.Errorf("%d moves: too few to tell anything", total)
	}
}
