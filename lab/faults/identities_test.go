//go:build e2e

package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	pollPace       = 300 * time.Millisecond
	// scanPace is the time between two looks at all processes.
	scanPace = 50 * time.Millisecond
)

// movers is a StatefulSet whose pods are driven from node to node, and a census of what really runs.
type movers struct {
	client     kubernetes.Interface
	census     *census
	endCensus  context.CancelFunc
	endDriving context.CancelFunc
	counting   sync.WaitGroup
	driving    sync.WaitGroup
	failed     error         // of the census
	gap        time.Duration // the longest between two scans
	emptied    int           // nodes, while servers failed
}

// startMovers returns once all pods run.
func startMovers(ctx context.Context, config *rest.Config, nodes []cluster.Member) (*movers, error) {
	config = rest.CopyConfig(config)
	config.Timeout = patience
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	censusContext, endCensus := context.WithCancel(ctx)
	driveContext, endDriving := context.WithCancel(ctx)
	m := &movers{client: client, census: newCensus("/proc", *name), endCensus: endCensus, endDriving: endDriving}
	if _, err := client.AppsV1().StatefulSets("default").Create(ctx, identitySet(), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create stateful set: %w", err)
	}
	m.counting.Go(func() { m.failed = m.count(censusContext) })
	err = wait.PollUntilContextTimeout(ctx, pollPace, recovery, true, func(ctx context.Context) (bool, error) {
		set, err := client.AppsV1().StatefulSets("default").Get(ctx, identity, metav1.GetOptions{})
		return err == nil && set.Status.ReadyReplicas == identities, nil
	})
	if err != nil {
		return nil, fmt.Errorf("pods do not run: %w", err)
	}
	m.driving.Go(func() { m.drive(driveContext, nodes) })
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

// count scans until ctx is done.
func (m *movers) count(ctx context.Context) error {
	ticker := time.NewTicker(scanPace)
	defer ticker.Stop()
	for last := time.Now(); ; {
		if err := m.census.scan(); err != nil {
			return err
		}
		m.gap = max(m.gap, time.Since(last))
		last = time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// drive empties one node after the other. What fails is part of the test.
func (m *movers) drive(ctx context.Context, nodes []cluster.Member) {
	for turn := 0; ctx.Err() == nil; turn++ {
		if m.empty(ctx, nodes[turn%len(nodes)].Name, patienceToMove) == nil {
			m.emptied++
		}
	}
}

// empty closes a node, deletes its pods until all pods run on others, and opens it again.
func (m *movers) empty(ctx context.Context, node string, patience time.Duration) error {
	err := wait.PollUntilContextTimeout(ctx, pollPace, patience, true, func(ctx context.Context) (bool, error) {
		moved, err := m.move(ctx, node)
		return moved && err == nil, nil
	})
	opened := wait.PollUntilContextTimeout(ctx, pollPace, recovery, true, func(ctx context.Context) (bool, error) {
		return m.cordon(ctx, node, false) == nil, nil
	})
	return errors.Join(err, opened)
}

// move deletes the pods of a node, and tells whether all pods run on others.
func (m *movers) move(ctx context.Context, node string) (bool, error) {
	if err := m.cordon(ctx, node, true); err != nil {
		return false, err
	}
	pods, err := m.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + identity})
	if err != nil {
		return false, err
	}
	elsewhere := 0
	for _, pod := range pods.Items {
		switch {
		case pod.Spec.NodeName == node && pod.DeletionTimestamp == nil:
			err = errors.Join(err, m.client.CoreV1().Pods("default").Delete(ctx, pod.Name, metav1.DeleteOptions{}))
		case pod.Spec.NodeName != node && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning:
			elsewhere++
		}
	}
	return elsewhere == identities, err
}

func (m *movers) cordon(ctx context.Context, node string, closed bool) error {
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
	_, err := m.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// stop empties each node once more, now that all is well, and ends.
func (m *movers) stop(ctx context.Context, nodes []cluster.Member) error {
	m.endDriving()
	m.driving.Wait()
	var errs []error
	for _, node := range nodes {
		if err := m.empty(ctx, node.Name, recovery); err != nil {
			errs = append(errs, fmt.Errorf("pods do not leave %s when all is well: %w", node.Name, err))
		}
	}
	m.endCensus()
	m.counting.Wait()
	return errors.Join(append(errs, m.failed)...)
}

func (m *movers) check(t *testing.T) {
	t.Helper()
	c := m.census
	moved := moves(c.lives)
	t.Logf("%d processes of %d pod names seen in %d scans (%s apart at most); nodes emptied %d times under faults, moves to another node by pod: %v",
		len(c.lives), len(moved), c.scans, m.gap.Round(time.Millisecond), m.emptied, moved)
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
