package faults

import (
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/internal/podstate"
)

// place is what a pod of a Job is one success of: its index, or else itself. A pod that was deleted may succeed all the same, beside the
// one that has got its index.
func place(pod *corev1.Pod) string {
	if index, ok := pod.Annotations[batchv1.JobCompletionIndexAnnotation]; ok {
		return index
	}
	return string(pod.UID)
}

func (c *checker) countsOf(job types.UID) *counts {
	if c.jobs[job] == nil {
		c.jobs[job] = &counts{succeeded: map[string]time.Time{}, failed: map[types.UID]bool{}}
	}
	return c.jobs[job]
}

// countPod keeps what a pod of a Job came to. One that is being deleted has failed unless it ends well.
func (c *checker) countPod(job types.UID, pod *corev1.Pod, gone bool) {
	n := c.countsOf(job)
	switch {
	case pod.Status.Phase == corev1.PodSucceeded:
		if n.succeeded[place(pod)].IsZero() {
			n.succeeded[place(pod)] = c.now
		}
		delete(n.failed, pod.UID)
	case pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil || gone:
		n.failed[pod.UID] = true
	}
}

// seeJob: no pod counts that has not ended, none counts twice, and what has been counted stays counted.
func (c *checker) seeJob(job *batchv1.Job) {
	n := c.countsOf(job.UID)
	succeeded, failed := int(job.Status.Succeeded), int(job.Status.Failed)
	if u := job.Status.UncountedTerminatedPods; u != nil {
		succeeded += len(u.Succeeded)
		failed += len(u.Failed)
	}
	if succeeded > len(n.succeeded) {
		c.fail(job, "counts %d successes, and %d pods have succeeded", succeeded, len(n.succeeded))
	}
	if failed > len(n.failed) {
		c.fail(job, "counts %d failures, and %d pods have failed", failed, len(n.failed))
	}
	if succeeded < n.saidSucceeded || failed < n.saidFailed {
		c.fail(job, "counted %d successes and %d failures, and now %d and %d", n.saidSucceeded, n.saidFailed, succeeded, failed)
	}
	n.saidSucceeded, n.saidFailed = succeeded, failed
	for _, condition := range job.Status.Conditions {
		if condition.Type != batchv1.JobComplete || condition.Status != corev1.ConditionTrue {
			continue
		}
		if succeeded != int(*job.Spec.Completions) || succeeded != len(n.succeeded) || failed != len(n.failed) {
			c.fail(job, "is complete with %d successes and %d failures of %d and %d, for %d completions", succeeded, failed, len(n.succeeded), len(n.failed), *job.Spec.Completions)
		}
	}
}

func (c *checker) bornForJob(job *batchv1.Job, pod *corev1.Pod, active int) {
	if most := c.most(job.UID, "most"); active > most {
		c.fail(pod, "pod %d of job %s at a time, %d may run", active, job.Name, most)
	}
	n := c.countsOf(job.UID)
	// A pod that a person has just deleted may succeed after its place was given to another.
	surprise := func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded && !c.taken[p.UID].IsZero() && c.justNow(n.succeeded[place(p)])
	}
	done := len(n.succeeded) - len(c.of(job.UID, surprise))
	open := len(c.of(job.UID, func(p *corev1.Pod) bool { return podstate.Active(p) && n.succeeded[place(p)].IsZero() }))
	if done+open > int(*job.Spec.Completions) {
		c.fail(pod, "%d pods of job %s run and %d have succeeded, %d are wanted", open, job.Name, done, *job.Spec.Completions)
	}
	index, ok := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
	if !ok {
		return
	}
	same := c.of(job.UID, func(p *corev1.Pod) bool {
		done := p.Status.Phase == corev1.PodSucceeded && !surprise(p)
		return p.Annotations[batchv1.JobCompletionIndexAnnotation] == index && (done || podstate.Active(p))
	})
	if n, err := strconv.Atoi(index); err != nil || n >= int(*job.Spec.Completions) || len(same) > 1 {
		c.fail(pod, "pod %d of index %s", len(same), index)
	}
}
