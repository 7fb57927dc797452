package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// people create workloads in a namespace and never leave them alone.
type people struct {
	client    kubernetes.Interface
	namespace string
	history   *history
	rand      *rand.Rand
	jobs      int
}

func labelsOf(name string) map[string]string { return map[string]string{"app": name} }

func template(name string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(name)},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(5)),
			Containers:                    []corev1.Container{{Name: "main", Image: "image"}},
		},
	}
}

func (p *people) create(ctx context.Context, t *testing.T) {
	t.Helper()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Labels: labelsOf(name)} }
	selector := func(name string) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: labelsOf(name)} }
	for name, rolling := range map[string]*appsv1.RollingUpdateDeployment{
		"rolling": {MaxSurge: new(intstr.FromInt32(1)), MaxUnavailable: new(intstr.FromInt32(1))},
		"surging": {MaxSurge: new(intstr.FromInt32(2)), MaxUnavailable: new(intstr.FromInt32(0))},
		"hunted":  {MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromString("25%"))},
	} {
		_, err := p.client.AppsV1().Deployments(p.namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta(name), Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(5)), Selector: selector(name), Template: template(name),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: rolling},
		}}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err := p.client.AppsV1().ReplicaSets(p.namespace).Create(ctx, &appsv1.ReplicaSet{ObjectMeta: meta("set"), Spec: appsv1.ReplicaSetSpec{
		Replicas: new(int32(4)), Selector: selector("set"), Template: template("set"),
	}}, metav1.CreateOptions{})
	must(t, err)
	for name, policy := range map[string]appsv1.PodManagementPolicyType{"ordered": appsv1.OrderedReadyPodManagement, "parallel": appsv1.ParallelPodManagement} {
		_, err := p.client.AppsV1().StatefulSets(p.namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta(name), Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(4)), Selector: selector(name), Template: template(name), PodManagementPolicy: policy, ServiceName: name,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: new(intstr.FromInt32(2))}},
		}}, metav1.CreateOptions{})
		must(t, err)
	}
	for name, rolling := range map[string]appsv1.RollingUpdateDaemonSet{
		"daemon":  {MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0))},
		"surging": {MaxUnavailable: new(intstr.FromInt32(0)), MaxSurge: new(intstr.FromInt32(1))},
	} {
		_, err := p.client.AppsV1().DaemonSets(p.namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta("d-" + name), Spec: appsv1.DaemonSetSpec{
			Selector: selector("d-" + name), Template: template("d-" + name),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &rolling},
		}}, metav1.CreateOptions{})
		must(t, err)
	}
	for range 3 {
		must(t, p.startJob(ctx))
	}
}

// startJob starts a Job: a plain one, an indexed one and one with pods that fail, in turn.
func (p *people) startJob(ctx context.Context) error {
	p.jobs++
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("job-%d", p.jobs)}, Spec: batchv1.JobSpec{
		Parallelism: new(int32(3)), Completions: new(int32(9)), Template: template("job"), BackoffLimit: new(int32(100)),
	}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	switch p.jobs % 3 {
	case 1:
		job.Spec.CompletionMode = new(batchv1.IndexedCompletion)
	case 2:
		job.Spec.Template.Annotations = map[string]string{"fail": "sometimes"}
	}
	_, err := p.client.BatchV1().Jobs(p.namespace).Create(ctx, job, metav1.CreateOptions{})
	return err
}

// meddle does one thing, out of all that people do. An error is one of those that people live with.
func (p *people) meddle(ctx context.Context) error {
	deployments := []string{"rolling", "surging", "hunted"}
	roll := func() string {
		return fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"at":"%d"}}}}}`, p.rand.IntN(4))
	}
	scale := func() string { return fmt.Sprintf(`{"spec":{"replicas":%d}}`, 2+p.rand.IntN(5)) }
	touch := fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%d"}}}`, p.rand.IntN(1000))
	apps := p.client.AppsV1()
	deployment := func(name, body string) error {
		_, err := apps.Deployments(p.namespace).Patch(ctx, name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	switch p.rand.IntN(12) {
	case 0, 1:
		return deployment(deployments[p.rand.IntN(3)], roll())
	case 2:
		return deployment("hunted", scale())
	case 3:
		return deployment(deployments[p.rand.IntN(3)], touch)
	case 4: // a conflicting writer of the controller's own objects
		sets, err := apps.ReplicaSets(p.namespace).List(ctx, metav1.ListOptions{})
		if err != nil || len(sets.Items) == 0 {
			return err
		}
		_, err = apps.ReplicaSets(p.namespace).Patch(ctx, sets.Items[p.rand.IntN(len(sets.Items))].Name, types.MergePatchType, []byte(touch), metav1.PatchOptions{})
		return err
	case 5:
		_, err := apps.StatefulSets(p.namespace).Patch(ctx, []string{"ordered", "parallel"}[p.rand.IntN(2)], types.MergePatchType, []byte([]string{roll(), scale()}[p.rand.IntN(2)]), metav1.PatchOptions{})
		return err
	case 6:
		_, err := apps.DaemonSets(p.namespace).Patch(ctx, []string{"d-daemon", "d-surging"}[p.rand.IntN(2)], types.MergePatchType, []byte(roll()), metav1.PatchOptions{})
		return err
	case 7:
		_, err := apps.ReplicaSets(p.namespace).Patch(ctx, "set", types.MergePatchType, []byte(scale()), metav1.PatchOptions{})
		return err
	case 8: // let a pod go, and with the next turn perhaps back
		return p.onPod(ctx, "set", func(pod *corev1.Pod) error {
			p.history.take(pod.UID)
			body := []byte(`{"metadata":{"labels":{"app":"away"}}}`)
			_, err := p.client.CoreV1().Pods(p.namespace).Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{})
			return err
		})
	case 9:
		return p.onPod(ctx, "away", func(pod *corev1.Pod) error {
			return p.client.CoreV1().Pods(p.namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
		})
	default:
		return p.onPod(ctx, []string{"hunted", "set", "parallel", "ordered", "d-daemon", "job"}[p.rand.IntN(6)], func(pod *corev1.Pod) error {
			p.history.take(pod.UID)
			return p.client.CoreV1().Pods(p.namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		})
	}
}

func (p *people) onPod(ctx context.Context, app string, act func(*corev1.Pod) error) error {
	pods, err := p.client.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(labelsOf(app)).String()})
	if err != nil || len(pods.Items) == 0 {
		return err
	}
	pod := &pods.Items[p.rand.IntN(len(pods.Items))]
	if pod.DeletionTimestamp != nil {
		return nil
	}
	return act(pod)
}

// live has people meddle every so often until ctx ends, and start a Job now and then.
func (p *people) live(ctx context.Context, t *testing.T, every, jobEvery time.Duration) {
	ticker, jobs := time.NewTicker(every), time.NewTicker(jobEvery)
	defer ticker.Stop()
	defer jobs.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			err = p.meddle(ctx)
		case <-jobs.C:
			err = p.startJob(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.Logf("people: %v", err)
		}
	}
}

// settled says what of the workloads is not as it should be.
func (p *people) settled(ctx context.Context) error {
	deployments, err := p.client.AppsV1().Deployments(p.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range deployments.Items {
		if s := d.Status; s.ObservedGeneration != d.Generation || s.Replicas != *d.Spec.Replicas || s.UpdatedReplicas != s.Replicas || s.AvailableReplicas != s.Replicas {
			return fmt.Errorf("deployment %s: %d replicas wanted, status %+v", d.Name, *d.Spec.Replicas, s)
		}
	}
	set, err := p.client.AppsV1().ReplicaSets(p.namespace).Get(ctx, "set", metav1.GetOptions{})
	if err != nil || set.Status.AvailableReplicas != *set.Spec.Replicas || set.Status.Replicas != *set.Spec.Replicas {
		return fmt.Errorf("replica set: status %+v: %w", set.Status, err)
	}
	sets, err := p.client.AppsV1().StatefulSets(p.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, s := range sets.Items {
		if st := s.Status; st.ObservedGeneration != s.Generation || st.Replicas != *s.Spec.Replicas || st.AvailableReplicas != st.Replicas || st.UpdatedReplicas != st.Replicas {
			return fmt.Errorf("stateful set %s: %d replicas wanted, status %+v", s.Name, *s.Spec.Replicas, st)
		}
	}
	daemons, err := p.client.AppsV1().DaemonSets(p.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range daemons.Items {
		if s := d.Status; s.ObservedGeneration != d.Generation || int(s.NumberAvailable) != len(nodes) || int(s.UpdatedNumberScheduled) != len(nodes) {
			return fmt.Errorf("daemon set %s: status %+v", d.Name, s)
		}
	}
	return p.jobsDone(ctx)
}

// jobsDone leaves out Jobs with pods that fail: they wait longer and longer.
func (p *people) jobsDone(ctx context.Context) error {
	jobs, err := p.client.BatchV1().Jobs(p.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range jobs.Items {
		job := &jobs.Items[i]
		if job.Status.CompletionTime == nil && job.Status.Failed == 0 && job.Spec.Template.Annotations["fail"] == "" {
			return fmt.Errorf("job %s: status %+v", job.Name, job.Status)
		}
	}
	return nil
}
