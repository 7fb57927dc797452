package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

// decide finds out whether the Job is heading for an end. Such a decision is written as a condition at once and never taken back;
// the Job ends when all its pods have stopped.
func (v *view) decide() {
	for i := range v.job.Status.Conditions {
		c := &v.job.Status.Conditions[i]
		if (c.Type == batchv1.JobFailureTarget || c.Type == batchv1.JobSuccessCriteriaMet) && c.Status == corev1.ConditionTrue {
			v.target = c
			return
		}
	}
	for _, rule := range []func() (batchv1.JobConditionType, string, string){v.failByPolicy, v.failByLimits, v.failByIndexes, v.succeed} {
		if kind, reason, message := rule(); kind != "" {
			v.setCondition(kind, corev1.ConditionTrue, reason, message)
			v.target = &v.job.Status.Conditions[len(v.job.Status.Conditions)-1]
			return
		}
	}
}

// failByPolicy applies the rules of the failure policy that end the whole Job.
func (v *view) failByPolicy() (batchv1.JobConditionType, string, string) {
	for _, pod := range v.failed {
		if action, message := v.judge(pod); action == batchv1.PodFailurePolicyActionFailJob {
			return batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, message
		}
	}
	return "", "", ""
}

func (v *view) failByLimits() (batchv1.JobConditionType, string, string) {
	limit := int(ptr.Deref(v.job.Spec.BackoffLimit, 6))
	if v.failures() > limit || v.restartsExceed(limit) {
		return batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"
	}
	if left, ok := v.deadline(); ok && left <= 0 {
		return batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"
	}
	return "", "", ""
}

// restartsExceed counts the restarts of containers, which take the place of failed pods where the kubelet restarts them.
func (v *view) restartsExceed(limit int) bool {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := 0
	for _, pod := range v.active {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range statuses {
				restarts += int(statuses[i].RestartCount)
			}
		}
	}
	if limit == 0 {
		return restarts > 0
	}
	return restarts >= limit
}

// deadline returns the time left until activeDeadlineSeconds have passed.
func (v *view) deadline() (time.Duration, bool) {
	if v.job.Spec.ActiveDeadlineSeconds == nil || v.job.Status.StartTime == nil || suspended(v.job) {
		return 0, false
	}
	return v.job.Status.StartTime.Add(time.Duration(*v.job.Spec.ActiveDeadlineSeconds) * time.Second).Sub(v.now), true
}

func (v *view) deadlineIn() time.Duration {
	if left, ok := v.deadline(); ok && v.target == nil {
		return max(left, time.Millisecond)
	}
	return 0
}

func (v *view) failByIndexes() (batchv1.JobConditionType, string, string) {
	if !indexed(v.job) || v.job.Spec.BackoffLimitPerIndex == nil {
		return "", "", ""
	}
	if most := v.job.Spec.MaxFailedIndexes; most != nil && len(v.lost) > int(*most) {
		return batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"
	}
	if len(v.lost) > 0 && len(v.lost)+len(v.complete) >= completions(v.job) {
		return batchv1.JobFailureTarget, batchv1.JobReasonFailedIndexes, "Job has failed indexes"
	}
	return "", "", ""
}

func (v *view) succeed() (batchv1.JobConditionType, string, string) {
	if policy := v.job.Spec.SuccessPolicy; policy != nil && indexed(v.job) {
		for i := range policy.Rules {
			if v.satisfies(&policy.Rules[i]) {
				return batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i)
			}
		}
	}
	want := completions(v.job)
	reached := want >= 0 && v.successes() >= want
	if want < 0 {
		// Without a number one success is enough, but the pods that still run may end their work.
		reached = v.successes() > 0 && len(v.active) == 0
	}
	if !reached {
		return "", "", ""
	}
	return batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"
}

func (v *view) satisfies(rule *batchv1.SuccessPolicyRule) bool {
	of := v.complete
	if rule.SucceededIndexes != nil {
		required := parseIndexes(*rule.SucceededIndexes, completions(v.job))
		if of = v.complete.intersect(required); len(required) > 0 && len(of) == len(required) {
			return true
		}
	}
	return rule.SucceededCount != nil && len(of) >= int(*rule.SucceededCount)
}

// conclude ends the Job if it was heading for that, nothing runs any more and every pod has been counted. waiting says that there
// are pods whose finalizer has not gone. It reports whether the status changed.
func (v *view) conclude(waiting bool) bool {
	quiet := v.job.Status.Active == 0 && *v.job.Status.Terminating == 0 && len(v.active) == 0
	if v.target == nil || waiting || !quiet || v.uncounted.succeeded.Len()+v.uncounted.failed.Len() > 0 {
		return false
	}
	kind := batchv1.JobFailed
	if v.target.Type == batchv1.JobSuccessCriteriaMet {
		kind = batchv1.JobComplete
		v.job.Status.CompletionTime = new(metav1.NewTime(v.now))
	}
	v.setCondition(kind, corev1.ConditionTrue, v.target.Reason, v.target.Message)
	v.job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	v.done = true
	return true
}

// judge returns what the failure policy says about a failed pod. Without a matching rule the failure counts.
func (v *view) judge(pod *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	policy := v.job.Spec.PodFailurePolicy
	if policy == nil || pod.Status.Phase != corev1.PodFailed {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		if rule.OnExitCodes != nil {
			if name, code, ok := matchExitCode(pod, rule.OnExitCodes); ok {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d", name, pod.Namespace, pod.Name, code, rule.Action, i)
			}
		} else if c, ok := matchCondition(pod, rule.OnPodConditions); ok {
			return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c, rule.Action, i)
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

func matchExitCode(pod *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) (string, int32, bool) {
	statuses := append(slices.Clone(pod.Status.ContainerStatuses), pod.Status.InitContainerStatuses...)
	for i := range statuses {
		terminated := statuses[i].State.Terminated
		if terminated == nil || terminated.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != statuses[i].Name {
			continue
		}
		if slices.Contains(rule.Values, terminated.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return statuses[i].Name, terminated.ExitCode, true
		}
	}
	return "", 0, false
}

func matchCondition(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) (corev1.PodConditionType, bool) {
	for _, pattern := range patterns {
		c := podstate.Condition(pod, pattern.Type)
		status := pattern.Status
		if status == "" {
			status = corev1.ConditionTrue
		}
		if c != nil && c.Status == status {
			return pattern.Type, true
		}
	}
	return "", false
}
