package job

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	indexEnv = "JOB_COMPLETION_INDEX"
	// longestPrefix is what the API server keeps of generateName: the index must not be cut off.
	longestPrefix = 58
)

// indexes is a set of completion indexes. Its text form is that of the status: "1,3-5,7".
type indexes map[int]bool

// parseIndexes reads the text form, up to an exclusive limit. What cannot be read is left out: the status is ours.
func parseIndexes(text string, limit int) indexes {
	set := indexes{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		to := from
		if ranged {
			if to, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := from; i <= min(to, limit-1); i++ {
			set[i] = true
		}
	}
	return set
}

func (s indexes) String() string {
	var parts []string
	sorted := slices.Sorted(maps.Keys(s))
	for i := 0; i < len(sorted); {
		j := i
		for j+1 < len(sorted) && sorted[j+1] == sorted[j]+1 {
			j++
		}
		switch j {
		case i:
			parts = append(parts, strconv.Itoa(sorted[i]))
		case i + 1:
			parts = append(parts, fmt.Sprintf("%d,%d", sorted[i], sorted[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", sorted[i], sorted[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func (s indexes) intersect(other indexes) indexes {
	out := indexes{}
	for i := range s {
		if other[i] {
			out[i] = true
		}
	}
	return out
}

func indexOf(pod *corev1.Pod) (int, bool) {
	index, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	return index, err == nil && index >= 0
}

func annotated(pod *corev1.Pod, key string) int {
	n, err := strconv.Atoi(pod.Annotations[key])
	if err != nil {
		return 0
	}
	return n
}

// countIndexes adds the results of newly stopped pods to the sets of indexes.
func (v *view) countIndexes() {
	for _, pod := range v.succeeded {
		if index, ok := indexOf(pod); ok && index < completions(v.job) {
			v.complete[index] = true
		}
	}
	limit := v.job.Spec.BackoffLimitPerIndex
	if limit == nil {
		return
	}
	for _, pod := range v.failed {
		index, ok := indexOf(pod)
		if !ok || v.complete[index] {
			continue
		}
		action, _ := v.judge(pod)
		failures := annotated(pod, batchv1.JobIndexFailureCountAnnotation)
		if action == batchv1.PodFailurePolicyActionFailIndex || action != batchv1.PodFailurePolicyActionIgnore && failures+1 > int(*limit) {
			v.lost[index] = true
		}
	}
}

// holdsFailureCount reports whether a failed pod is the only place where the failures of its index are recorded: it is kept until
// its replacement carries them on.
func (v *view) holdsFailureCount(pod *corev1.Pod) bool {
	index, ok := indexOf(pod)
	if v.job.Spec.BackoffLimitPerIndex == nil || !ok || v.target != nil || index >= completions(v.job) || v.complete[index] || v.lost[index] {
		return false
	}
	latest := v.latestFailed()[index]
	if latest == nil || latest.UID != pod.UID {
		return false
	}
	return !slices.ContainsFunc(v.active, func(p *corev1.Pod) bool {
		i, ok := indexOf(p)
		return ok && i == index
	})
}

func (v *view) latestFailed() map[int]*corev1.Pod {
	latest := map[int]*corev1.Pod{}
	attempts := func(pod *corev1.Pod) int {
		return annotated(pod, batchv1.JobIndexFailureCountAnnotation) + annotated(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
	}
	for _, pod := range v.failed {
		if index, ok := indexOf(pod); ok && (latest[index] == nil || attempts(pod) >= attempts(latest[index])) {
			latest[index] = pod
		}
	}
	return latest
}

// uniqueIndexes separates the active pods that work on an open index, one each, from the others.
func (v *view) uniqueIndexes() (keep, surplus []*corev1.Pod) {
	taken := indexes{}
	for _, pod := range slices.Backward(leastUseful(v.active)) {
		index, ok := indexOf(pod)
		if !ok || index >= completions(v.job) || v.complete[index] || v.lost[index] || taken[index] {
			surplus = append(surplus, pod)
			continue
		}
		taken[index] = true
		keep = append(keep, pod)
	}
	return keep, surplus
}

// planIndexes fills the lowest open indexes, as far as their back-off allows.
func (v *view) planIndexes(missing int) plan {
	taken := indexes{}
	busy := v.active
	if v.replacesOnlyFailed() {
		busy = append(slices.Clone(busy), v.terminating...)
	}
	for _, pod := range busy {
		if index, ok := indexOf(pod); ok {
			taken[index] = true
		}
	}
	perIndex := v.job.Spec.BackoffLimitPerIndex != nil
	if !perIndex {
		if wait := backoff(v.pods, v.now); wait > 0 {
			return plan{wait: wait}
		}
	}
	failed := v.latestFailed()
	var p plan
	for index := 0; index < completions(v.job) && len(p.create) < missing; index++ {
		if taken[index] || v.complete[index] || v.lost[index] {
			continue
		}
		next, wait := slot{index: index}, time.Duration(0)
		if last := failed[index]; perIndex && last != nil {
			next, wait = v.retry(index, last)
		}
		if wait > 0 {
			if p.wait == 0 || wait < p.wait {
				p.wait = wait
			}
			continue
		}
		p.create = append(p.create, next)
	}
	return p
}

// retry returns the slot that carries on the failures of an index, and how long it must wait.
func (v *view) retry(index int, last *corev1.Pod) (slot, time.Duration) {
	next := slot{
		index: index, failures: annotated(last, batchv1.JobIndexFailureCountAnnotation),
		ignored: annotated(last, batchv1.JobIndexIgnoredFailureCountAnnotation),
	}
	if action, _ := v.judge(last); action == batchv1.PodFailurePolicyActionIgnore {
		next.ignored++
	} else {
		next.failures++
	}
	return next, remaining(next.failures+next.ignored, stopped(last), v.now)
}

// indexPod gives a pod its index: name, labels, annotations and environment.
func indexPod(job *batchv1.Job, pod *corev1.Pod, s slot) {
	index := strconv.Itoa(s.index)
	metav1.SetMetaDataLabel(&pod.ObjectMeta, batchv1.JobCompletionIndexAnnotation, index)
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, batchv1.JobCompletionIndexAnnotation, index)
	if job.Spec.BackoffLimitPerIndex != nil {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(s.failures))
		if s.ignored > 0 {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(s.ignored))
		}
	}
	pod.Spec.Hostname = job.Name + "-" + index
	suffix := "-" + index + "-"
	pod.GenerateName = job.Name[:min(len(job.Name), longestPrefix-len(suffix))] + suffix
	env := corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !slices.ContainsFunc(containers[i].Env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
				containers[i].Env = append(containers[i].Env, env)
			}
		}
	}
}
