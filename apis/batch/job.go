package batch

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
)

// The labels of a job's pods that predate prefixes; both forms are set.
const (
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

const orphanWarning = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or " +
	"set propagationPolicy=Orphan to suppress this warning"

// job runs pods until enough of them have succeeded.
var job = resource.Definition[*batchv1.Job]{
	GroupVersion: groupVersion, Kind: "Job", NameOnce: true, Plural: "jobs", Categories: []string{"all"},
	Namespaced: true, HasStatus: true, OrphanDependents: true, OrphanWarning: orphanWarning, AllowUnconditionalUpdate: true,
	Default:  defaultJob,
	Prepare:  prepareJob,
	Validate: validateJob, ValidateUpdate: validateJobUpdate, ValidateStatus: validateJobStatus,
	Warn: warnJob,
	Fields: map[string]func(*batchv1.Job) string{
		"status.successful": func(j *batchv1.Job) string { return strconv.Itoa(int(j.Status.Succeeded)) },
	},
	Columns: resource.Columns(slices.Concat(
		[]resource.Column[*batchv1.Job]{
			{Name: "Status", Description: "Status of the job.", Get: func(j *batchv1.Job) any { return jobStatus(j) }},
			{Name: "Completions", Description: batchv1.JobStatus{}.SwaggerDoc()["succeeded"], Get: func(j *batchv1.Job) any { return completions(j) }},
			{Name: "Duration", Description: "Time required to complete the job.", Get: func(j *batchv1.Job) any { return jobDuration(j, time.Now()) }},
		},
		core.TemplateColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"],
			func(j *batchv1.Job) *corev1.PodSpec { return &j.Spec.Template.Spec },
			func(j *batchv1.Job) string { return metav1.FormatLabelSelector(j.Spec.Selector) }),
	)...),
}

func hasCondition(j *batchv1.Job, conditionType batchv1.JobConditionType) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == conditionType && c.Status == corev1.ConditionTrue
	})
}

func jobStatus(j *batchv1.Job) string {
	switch {
	case hasCondition(j, batchv1.JobComplete):
		return "Complete"
	case hasCondition(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case hasCondition(j, batchv1.JobSuspended):
		return "Suspended"
	case hasCondition(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case hasCondition(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case ptr.Deref(j.Spec.Parallelism, 0) > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime != nil:
		now = j.Status.CompletionTime.Time
	}
	return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	defaultJobSpec(spec)
	// One pod is meant when nothing is said; with a parallelism alone the job is a work queue.
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr.To[int32](1)
	}
	resource.SetDefaultPtr(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex != nil {
		resource.SetDefaultPtr(&spec.BackoffLimit, math.MaxInt32)
	}
	resource.SetDefaultPtr(&spec.BackoffLimit, 6)
	resource.SetDefaultPtr(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	resource.SetDefaultPtr(&spec.Suspend, false)
	resource.SetDefaultPtr(&spec.ManualSelector, false)
	if spec.PodFailurePolicy != nil {
		resource.SetDefaultPtr(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	resource.SetDefaultPtr(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	if len(j.Labels) == 0 {
		j.Labels = spec.Template.Labels
	}
}

// defaultJobSpec fills what a job and the template of one in a CronJob share.
func defaultJobSpec(spec *batchv1.JobSpec) {
	core.DefaultPodTemplateSpec(&spec.Template)
	if spec.PodFailurePolicy == nil {
		return
	}
	for i := range spec.PodFailurePolicy.Rules {
		for j := range spec.PodFailurePolicy.Rules[i].OnPodConditions {
			resource.SetDefault(&spec.PodFailurePolicy.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
		}
	}
}

// prepareJob gives a new job the selector and labels that tell its pods from all others. WorkloadWithJob is alpha in 1.37.
func prepareJob(j, old *batchv1.Job) {
	core.PreparePodTemplate(&j.Spec.Template)
	j.Spec.Scheduling = nil
	if old == nil && !ptr.Deref(j.Spec.ManualSelector, false) {
		generateSelector(j)
	}
}

// jobLabels are what every pod of the job must carry.
func jobLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		legacyControllerUIDLabel:   string(j.UID),
		batchv1.ControllerUidLabel: string(j.UID),
		legacyJobNameLabel:         j.Name,
		batchv1.JobNameLabel:       j.Name,
	}
}

// generateSelector never overwrites: a value that a user has put there is for validation to reject.
func generateSelector(j *batchv1.Job) {
	// The template's labels may be the job's own map, by defaulting.
	labels := map[string]string{}
	maps.Copy(labels, j.Spec.Template.Labels)
	for key, value := range jobLabels(j) {
		if _, ok := labels[key]; !ok {
			labels[key] = value
		}
	}
	if maps.Equal(j.Labels, j.Spec.Template.Labels) && len(j.Labels) > 0 {
		j.Labels = maps.Clone(labels) // the job has its labels of the template: by default they stay the same
	}
	j.Spec.Template.Labels = labels
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

func warnJob(j, old *batchv1.Job) []string {
	var warnings []string
	var oldTemplate *corev1.PodTemplateSpec
	if old == nil {
		warnings = core.DNSLabelNameWarnings(j.Name, true)
	} else {
		oldTemplate = &old.Spec.Template
	}
	return append(warnings, jobSpecWarnings(&j.Spec, oldTemplate, field.NewPath("spec"))...)
}

// jobSpecWarnings warns of jobs so large that counting their indexes gets slow.
func jobSpecWarnings(spec *batchv1.JobSpec, oldTemplate *corev1.PodTemplateSpec, path *field.Path) []string {
	var warnings []string
	if ptr.Deref(spec.Completions, 0) > maxIndexedWarning && ptr.Deref(spec.Parallelism, 0) > maxIndexedParallelism &&
		ptr.Deref(spec.CompletionMode, "") == batchv1.IndexedCompletion {
		warnings = append(warnings, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(warnings, core.PodTemplateWarnings(&spec.Template, oldTemplate, path.Child("template"))...)
}
