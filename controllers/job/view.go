package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

// view is one look at a Job: its pods sorted by what they mean, and the status as it will be written.
type view struct {
	job      *batchv1.Job // a copy, whose status is being worked on
	original *batchv1.JobStatus
	now      time.Time
	pods     []*corev1.Pod

	active      []*corev1.Pod
	terminating []*corev1.Pod // being deleted and not stopped yet
	succeeded   []*corev1.Pod // stopped, with our finalizer, and not in the status yet
	failed      []*corev1.Pod // likewise
	void        []*corev1.Pod // stopped, with our finalizer, and nothing to count
	uncounted   uncounted     // in the status, finalizer perhaps still there
	complete    indexes       // done, of an indexed Job
	lost        indexes       // failed for good, of an indexed Job with a limit per index

	target *batchv1.JobCondition // the end that the Job is heading for, once its pods have stopped
	done   bool
	events []event
}

type event struct{ kind, reason, message string }

// uncounted are the uids that the status holds between the first write and the counting.
type uncounted struct{ succeeded, failed sets.Set[types.UID] }

func newView(job *batchv1.Job, pods []*corev1.Pod, now time.Time) *view {
	v := &view{job: job, original: job.Status.DeepCopy(), now: now, pods: pods, uncounted: uncounted{sets.New[types.UID](), sets.New[types.UID]()}}
	if u := job.Status.UncountedTerminatedPods; u != nil {
		v.uncounted.succeeded.Insert(u.Succeeded...)
		v.uncounted.failed.Insert(u.Failed...)
	}
	if indexed(job) {
		v.complete = parseIndexes(job.Status.CompletedIndexes, completions(job))
		v.lost = parseIndexes(ptr.Deref(job.Status.FailedIndexes, ""), completions(job))
	}
	for _, pod := range pods {
		v.sort(pod)
	}
	slices.SortFunc(v.active, byAge)
	slices.SortFunc(v.failed, byAge)
	if indexed(job) {
		v.countIndexes()
	}
	job.Status.Active = int32(len(v.active))
	job.Status.Terminating = new(int32(len(v.terminating)))
	job.Status.Ready = new(int32(len(podstate.Select(v.active, podstate.Ready))))
	return v
}

func (v *view) sort(pod *corev1.Pod) {
	fresh := hasFinalizer(pod) && !v.recorded(pod)
	switch {
	case pod.Status.Phase == corev1.PodSucceeded:
		if fresh {
			v.succeeded = append(v.succeeded, pod)
		}
	case pod.Status.Phase == corev1.PodFailed, pod.DeletionTimestamp != nil && !v.replacesOnlyFailed():
		switch {
		case fresh && v.misplaced(pod):
			v.void = append(v.void, pod)
		case fresh:
			v.failed = append(v.failed, pod)
		}
		if pod.Status.Phase != corev1.PodFailed {
			v.terminating = append(v.terminating, pod)
		}
	case pod.DeletionTimestamp != nil:
		v.terminating = append(v.terminating, pod)
	default:
		v.active = append(v.active, pod)
	}
}

// recorded reports whether a pod stands in the status.
func (v *view) recorded(pod *corev1.Pod) bool {
	return v.uncounted.succeeded.Has(pod.UID) || v.uncounted.failed.Has(pod.UID)
}

// misplaced reports whether an indexed Job has no such index, or not any more: its failures are none of the Job's.
func (v *view) misplaced(pod *corev1.Pod) bool {
	index, ok := indexOf(pod)
	return indexed(v.job) && (!ok || index >= completions(v.job))
}

// replacesOnlyFailed reports whether a pod that is being deleted counts, and is replaced, only when it has stopped.
func (v *view) replacesOnlyFailed() bool {
	if v.job.Spec.PodFailurePolicy != nil {
		return true
	}
	return v.job.Spec.PodReplacementPolicy != nil && *v.job.Spec.PodReplacementPolicy == batchv1.Failed
}

func byAge(a, b *corev1.Pod) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	if a.Name < b.Name {
		return -1
	}
	return 1
}

// completions returns how many indexes or successes the Job needs; -1 if it has no number.
func completions(job *batchv1.Job) int {
	if job.Spec.Completions == nil {
		return -1
	}
	return int(*job.Spec.Completions)
}

// successes is how many pods or indexes have succeeded, whether they stand in the counter yet or not.
func (v *view) successes() int {
	if indexed(v.job) {
		return len(v.complete)
	}
	return int(v.job.Status.Succeeded) + v.uncounted.succeeded.Len() + len(v.succeeded)
}

// failures is how many pods have failed, without those that the failure policy ignores.
func (v *view) failures() int {
	n := int(v.job.Status.Failed) + v.uncounted.failed.Len()
	for _, pod := range v.failed {
		if action, _ := v.judge(pod); action != batchv1.PodFailurePolicyActionIgnore {
			n++
		}
	}
	return n
}

// settleCounted moves pods whose finalizer is gone from the lists of uids into the counters. It reports whether there were any.
func (v *view) settleCounted() bool {
	held := sets.New[types.UID]()
	for _, pod := range v.pods {
		if hasFinalizer(pod) {
			held.Insert(pod.UID)
		}
	}
	moved := false
	for uid := range v.uncounted.succeeded {
		if !held.Has(uid) {
			v.uncounted.succeeded.Delete(uid)
			v.job.Status.Succeeded++
			moved = true
		}
	}
	for uid := range v.uncounted.failed {
		if !held.Has(uid) {
			v.uncounted.failed.Delete(uid)
			v.job.Status.Failed++
			moved = true
		}
	}
	return moved
}

// mostUncounted bounds the uids in the status, which are 40 bytes each, and how long one Job keeps a worker.
const mostUncounted = 500

// collectUncounted records newly stopped pods in the status and returns all pods whose finalizer may go once that is written.
func (v *view) collectUncounted() []*corev1.Pod {
	free := slices.Clone(v.void)
	for _, pod := range v.pods {
		if hasFinalizer(pod) && v.recorded(pod) {
			free = append(free, pod) // recorded earlier, but the finalizer could not be removed then
		}
	}
	fail := func(pod *corev1.Pod) {
		if action, _ := v.judge(pod); action != batchv1.PodFailurePolicyActionIgnore {
			v.uncounted.failed.Insert(pod.UID)
		}
	}
	for _, pod := range v.succeeded {
		if len(free) >= mostUncounted {
			break
		}
		if !indexed(v.job) {
			v.uncounted.succeeded.Insert(pod.UID)
		}
		free = append(free, pod) // of an indexed Job the list of indexes is the record
	}
	for _, pod := range v.failed {
		if len(free) >= mostUncounted {
			break
		}
		if !v.holdsFailureCount(pod) {
			fail(pod)
			free = append(free, pod)
		}
	}
	for _, pod := range v.unawaited() {
		if len(free) >= mostUncounted {
			break
		}
		if v.target != nil && v.target.Type == batchv1.JobFailureTarget {
			fail(pod)
		}
		free = append(free, pod)
	}
	v.job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{
		Succeeded: sorted(v.uncounted.succeeded), Failed: sorted(v.uncounted.failed),
	}
	if indexed(v.job) {
		v.job.Status.CompletedIndexes = v.complete.String()
		v.job.Status.Succeeded = int32(len(v.complete))
		if v.job.Spec.BackoffLimitPerIndex != nil {
			v.job.Status.FailedIndexes = new(v.lost.String())
		}
	}
	return free
}

// unawaited returns the pods that have not stopped and whose result matters no more: those that are being deleted of a Job that is
// heading for its end, and all of a Job that is being deleted itself. They count as failed if the Job fails.
func (v *view) unawaited() []*corev1.Pod {
	var pods []*corev1.Pod
	switch {
	case v.job.DeletionTimestamp != nil:
		pods = append(slices.Clone(v.active), v.terminating...)
	case v.target != nil:
		pods = v.terminating
	}
	return podstate.Select(pods, func(pod *corev1.Pod) bool {
		return hasFinalizer(pod) && !v.recorded(pod) && !slices.Contains(v.failed, pod)
	})
}

func sorted(uids sets.Set[types.UID]) []types.UID {
	if uids.Len() == 0 {
		return nil
	}
	return sets.List(uids)
}

// start notes when the Job began, or went on.
func (v *view) start() {
	status := &v.job.Status
	if suspended(v.job) {
		return
	}
	resumed := false
	for _, c := range status.Conditions {
		resumed = resumed || c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	}
	if resumed {
		v.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		v.events = append(v.events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	}
	if status.StartTime == nil || resumed {
		status.StartTime = new(metav1.NewTime(v.now))
	}
}

// suspend notes that the Job stands still. It has no time of start then, and its template may be changed.
func (v *view) suspend() {
	if v.target != nil || !suspended(v.job) || v.job.DeletionTimestamp != nil {
		return
	}
	if v.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
		v.job.Status.StartTime = nil
		v.events = append(v.events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
	}
}

// setCondition reports whether the condition changed. A condition that would be false from the start is not written.
func (v *view) setCondition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) bool {
	now := metav1.NewTime(v.now)
	c := batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	conditions := slices.Clone(v.job.Status.Conditions)
	i := slices.IndexFunc(conditions, func(old batchv1.JobCondition) bool { return old.Type == kind })
	switch {
	case i < 0 && status == corev1.ConditionFalse:
		return false
	case i < 0:
		conditions = append(conditions, c)
	case conditions[i].Status == status && conditions[i].Reason == reason && conditions[i].Message == message:
		return false
	default:
		conditions[i] = c
	}
	v.job.Status.Conditions = conditions
	return true
}

func (v *view) addActive(n int) { v.job.Status.Active += int32(n) }

func (v *view) deleted(pods []*corev1.Pod) {
	v.job.Status.Active -= int32(len(pods))
	v.job.Status.Ready = new(*v.job.Status.Ready - int32(len(podstate.Select(pods, podstate.Ready))))
	v.job.Status.Terminating = new(*v.job.Status.Terminating + int32(len(pods)))
}

func (v *view) statusChanged() bool { return !equality.Semantic.DeepEqual(v.original, &v.job.Status) }
