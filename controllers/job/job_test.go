package job

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Unix(100000, 0)

func TestIndexes(t *testing.T) {
	cases := map[string]struct {
		text  string
		limit int
		want  string
	}{
		"empty":            {"", 10, ""},
		"ranges":           {"0-2,4,6,7", 10, "0-2,4,6,7"},
		"joined":           {"3,1,2", 10, "1-3"},
		"cut at the limit": {"0-9", 4, "0-3"},
		"rubbish":          {"a,2-b,3", 10, "3"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseIndexes(tc.text, tc.limit).String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRemaining(t *testing.T) {
	cases := map[string]struct {
		failures int
		ago      time.Duration
		want     time.Duration
	}{
		"no failure":   {0, 0, 0},
		"first":        {1, 4 * time.Second, 6 * time.Second},
		"third":        {3, 0, 40 * time.Second},
		"never longer": {60, 0, backoffMost},
		"over":         {2, time.Minute, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := remaining(tc.failures, now.Add(-tc.ago), now); got != tc.want {
				t.Errorf("remaining = %v, want %v", got, tc.want)
			}
		})
	}
}

func newJob(change func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", UID: "j"}, Spec: batchv1.JobSpec{
		Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](3), BackoffLimit: ptr.To[int32](1),
	}}
	if change != nil {
		change(job)
	}
	return job
}

func pod(name string, phase corev1.PodPhase, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer}}}
	p.Status.Phase = phase
	if phase == corev1.PodFailed {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, FinishedAt: metav1.NewTime(now.Add(-time.Hour))}}}}
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestDecide(t *testing.T) {
	failed := func(name string) *corev1.Pod { return pod(name, corev1.PodFailed, nil) }
	policy := func(action batchv1.PodFailurePolicyAction) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.BackoffLimit = ptr.To[int32](0)
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{3}},
			}}}
		}
	}
	cases := map[string]struct {
		job    *batchv1.Job
		pods   []*corev1.Pod
		want   string
		create int
		remove int
	}{
		"begins":               {newJob(nil), nil, "", 2, 0},
		"no more than needed":  {newJob(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), nil, "", 1, 0},
		"suspended":            {newJob(func(j *batchv1.Job) { j.Spec.Suspend = new(true) }), []*corev1.Pod{pod("a", corev1.PodRunning, nil)}, "", 0, 1},
		"reached":              {newJob(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), []*corev1.Pod{pod("a", corev1.PodSucceeded, nil), pod("b", corev1.PodRunning, nil)}, "CompletionsReached", 0, 1},
		"one failure is borne": {newJob(nil), []*corev1.Pod{failed("a")}, "", 2, 0},
		"two are not":          {newJob(nil), []*corev1.Pod{failed("a"), failed("b"), pod("c", corev1.PodRunning, nil)}, "BackoffLimitExceeded", 0, 1},
		"counted and uncounted together": {newJob(func(j *batchv1.Job) {
			j.Status.Failed = 1
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}}
		}), []*corev1.Pod{failed("a")}, "BackoffLimitExceeded", 0, 0},
		"past the deadline": {newJob(func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds = ptr.To[int64](10)
			j.Status.StartTime = new(metav1.NewTime(now.Add(-time.Minute)))
		}), []*corev1.Pod{pod("a", corev1.PodRunning, nil)}, "DeadlineExceeded", 0, 1},
		"policy fails the job":     {newJob(policy(batchv1.PodFailurePolicyActionFailJob)), []*corev1.Pod{failed("a")}, "PodFailurePolicy", 0, 0},
		"policy ignores":           {newJob(policy(batchv1.PodFailurePolicyActionIgnore)), []*corev1.Pod{failed("a")}, "", 2, 0},
		"too many running":         {newJob(nil), []*corev1.Pod{pod("a", corev1.PodRunning, nil), pod("b", corev1.PodRunning, nil), pod("c", corev1.PodPending, nil)}, "", 0, 1},
		"no number: one is enough": {newJob(func(j *batchv1.Job) { j.Spec.Completions = nil }), []*corev1.Pod{pod("a", corev1.PodSucceeded, nil)}, "CompletionsReached", 0, 0},
		"no number: others may end": {newJob(func(j *batchv1.Job) { j.Spec.Completions = nil }), []*corev1.Pod{
			pod("a", corev1.PodSucceeded, nil), pod("b", corev1.PodRunning, nil),
		}, "", 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := newView(tc.job, tc.pods, now)
			v.start()
			v.decide()
			p := v.plan()
			reason := ""
			if v.target != nil {
				reason = v.target.Reason
			}
			if reason != tc.want || len(p.create) != tc.create || len(p.remove) != tc.remove {
				t.Errorf("target %q, create %d, remove %d; want %q, %d, %d", reason, len(p.create), len(p.remove), tc.want, tc.create, tc.remove)
			}
		})
	}
}

// TestCountsOnce plays the accounting with crashes at random: between the write of the status and the removal of finalizers, and with
// removals that reach only some pods. Each pod must be counted exactly once in the end.
func TestCountsOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		job := newJob(func(j *batchv1.Job) {
			j.Spec.Completions = ptr.To[int32](100)
			j.Spec.BackoffLimit = ptr.To[int32](100)
		})
		var pods []*corev1.Pod
		wantSucceeded, wantFailed := int32(0), int32(0)
		for i := range 12 {
			phase := corev1.PodSucceeded
			if random.IntN(2) == 0 {
				phase = corev1.PodFailed
				wantFailed++
			} else {
				wantSucceeded++
			}
			pods = append(pods, pod(string(rune('a'+i)), phase, nil))
		}
		for range 40 {
			v := newView(job.DeepCopy(), pods, now)
			v.settleCounted()
			free := v.collectUncounted()
			if random.IntN(4) == 0 {
				continue // the status could not be written
			}
			job = v.job
			for _, p := range free {
				if random.IntN(3) > 0 { // otherwise the patch failed, or we crashed before it
					dropFinalizer(p)
				}
			}
			if random.IntN(5) == 0 { // somebody removes a pod that is free to go
				kept := pods[:0]
				for _, p := range pods {
					if hasFinalizer(p) || random.IntN(2) == 0 {
						kept = append(kept, p)
					}
				}
				pods = kept
			}
		}
		if job.Status.Succeeded != wantSucceeded || job.Status.Failed != wantFailed {
			t.Fatalf("round %d: counted %d and %d, want %d and %d", round, job.Status.Succeeded, job.Status.Failed, wantSucceeded, wantFailed)
		}
	}
}

func dropFinalizer(pod *corev1.Pod) { pod.Finalizers = nil }

// TestUnawaited holds which pods may go before they have stopped, and which of them count as failed.
func TestUnawaited(t *testing.T) {
	going := func(name string) *corev1.Pod {
		return pod(name, corev1.PodRunning, func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.NewTime(now)) })
	}
	afterStop := func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }
	cases := map[string]struct {
		job          *batchv1.Job
		pods         []*corev1.Pod
		free, failed int
	}{
		"one that is deleted has failed":           {newJob(nil), []*corev1.Pod{going("a"), pod("b", corev1.PodRunning, nil)}, 1, 1},
		"or is waited for":                         {newJob(afterStop), []*corev1.Pod{going("a")}, 0, 0},
		"of a job that fails it has failed":        {newJob(func(j *batchv1.Job) { afterStop(j); j.Status.Failed = 2 }), []*corev1.Pod{going("a")}, 1, 1},
		"of a job that succeeds it does not count": {newJob(func(j *batchv1.Job) { afterStop(j); j.Status.Succeeded = 3 }), []*corev1.Pod{going("a")}, 1, 0},
		"of a job that goes nobody waits": {
			newJob(func(j *batchv1.Job) { j.DeletionTimestamp = new(metav1.NewTime(now)) }), []*corev1.Pod{pod("a", corev1.PodRunning, nil)}, 1, 0,
		},
		"an index that is none does not count": {newJob(func(j *batchv1.Job) { j.Spec.CompletionMode = new(batchv1.IndexedCompletion) }), []*corev1.Pod{
			pod("a", corev1.PodFailed, func(p *corev1.Pod) { p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: "3"} }),
		}, 1, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := newView(tc.job, tc.pods, now)
			v.decide()
			free := v.collectUncounted()
			if len(free) != tc.free || v.uncounted.failed.Len() != tc.failed {
				t.Errorf("%d may go and %d failed; want %d, %d", len(free), v.uncounted.failed.Len(), tc.free, tc.failed)
			}
		})
	}
}

// TestCountsInPortions keeps the status small: of many pods that stop at once only some are in it at a time.
func TestCountsInPortions(t *testing.T) {
	job := newJob(func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](2000) })
	var pods []*corev1.Pod
	for i := range 1200 {
		pods = append(pods, pod(strconv.Itoa(i), corev1.PodSucceeded, nil))
	}
	for range 4 {
		v := newView(job, pods, now)
		v.settleCounted()
		free := v.collectUncounted()
		if n := len(v.job.Status.UncountedTerminatedPods.Succeeded); n > mostUncounted {
			t.Fatalf("%d pods in the status", n)
		}
		for _, p := range free {
			dropFinalizer(p)
		}
	}
	if job.Status.Succeeded != 1200 {
		t.Errorf("counted %d", job.Status.Succeeded)
	}
}

func TestSuspend(t *testing.T) {
	job := newJob(func(j *batchv1.Job) {
		j.Spec.Suspend = new(true)
		j.Status.StartTime = new(metav1.NewTime(now.Add(-time.Hour)))
	})
	look := func() {
		v := newView(job, nil, now)
		v.start()
		v.decide()
		v.suspend()
	}
	look()
	if job.Status.StartTime != nil || len(job.Status.Conditions) != 1 || job.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("suspended: %+v", job.Status)
	}
	job.Spec.Suspend = new(false)
	look()
	if !job.Status.StartTime.Time.Equal(now) || job.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("resumed: %+v", job.Status)
	}
}

func TestPlanIndexes(t *testing.T) {
	at := func(index string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: index} }
	}
	job := newJob(func(j *batchv1.Job) {
		j.Spec.CompletionMode = new(batchv1.IndexedCompletion)
		j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](5), ptr.To[int32](3)
		j.Spec.BackoffLimitPerIndex, j.Spec.BackoffLimit = ptr.To[int32](1), ptr.To[int32](100)
		j.Status.CompletedIndexes = "0"
	})
	pods := []*corev1.Pod{pod("a", corev1.PodRunning, at("1")), pod("b", corev1.PodFailed, at("2")), pod("d", corev1.PodFailed, at("3"))}
	pods[2].Annotations[batchv1.JobIndexFailureCountAnnotation] = "1"
	v := newView(job, pods, now)
	v.decide()
	want := []slot{{index: 2, failures: 1}, {index: 4}}
	if diff := cmp.Diff(want, v.plan().create, cmp.AllowUnexported(slot{})); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
	v.collectUncounted()
	if got := ptr.Deref(v.job.Status.FailedIndexes, ""); got != "3" {
		t.Errorf("failed indexes %q, want 3", got)
	}
}
