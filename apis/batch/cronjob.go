package batch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones are judged by the same list on every machine

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// maxCronJobName leaves room for the time that is appended to the names of its jobs.
const maxCronJobName = 52

// cronJob starts jobs by the clock.
var cronJob = resource.Definition[*batchv1.CronJob]{
	GroupVersion: groupVersion, Kind: "CronJob", NameOnce: true, Plural: "cronjobs",
	ShortNames: []string{"cj"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Default: defaultCronJob,
	Prepare: func(cj, _ *batchv1.CronJob) {
		core.PreparePodTemplate(&cj.Spec.JobTemplate.Spec.Template)
		cj.Spec.JobTemplate.Spec.Scheduling = nil
	},
	Validate: func(cj *batchv1.CronJob) field.ErrorList {
		errs := validateCronJobSpec(&cj.Spec, nil)
		if len(cj.Name) > maxCronJobName {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), cj.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
		}
		return errs
	},
	ValidateUpdate: func(cj, old *batchv1.CronJob) field.ErrorList { return validateCronJobSpec(&cj.Spec, &old.Spec) },
	Warn: func(cj, old *batchv1.CronJob) []string {
		var warnings []string
		var oldTemplate *corev1.PodTemplateSpec
		if old == nil {
			warnings = core.DNSLabelNameWarnings(cj.Name, true)
		} else {
			oldTemplate = &old.Spec.JobTemplate.Spec.Template
		}
		if strings.Contains(cj.Spec.Schedule, "TZ") {
			warnings = append(warnings, "spec.schedule: CRON_TZ or TZ used in schedule is not officially supported, "+
				"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
		}
		return append(warnings, jobSpecWarnings(&cj.Spec.JobTemplate.Spec, oldTemplate, field.NewPath("spec", "jobTemplate", "spec"))...)
	},
	Columns: resource.Columns(slices.Concat(
		[]resource.Column[*batchv1.CronJob]{
			{Name: "Schedule", Description: batchv1.CronJobSpec{}.SwaggerDoc()["schedule"], Get: func(cj *batchv1.CronJob) any { return cj.Spec.Schedule }},
			{Name: "Timezone", Description: batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"], Get: func(cj *batchv1.CronJob) any { return ptr.Deref(cj.Spec.TimeZone, "<none>") }},
			{Name: "Suspend", Type: "boolean", Description: batchv1.CronJobSpec{}.SwaggerDoc()["suspend"], Get: suspendCell},
			{Name: "Active", Type: "integer", Description: batchv1.CronJobStatus{}.SwaggerDoc()["active"], Get: func(cj *batchv1.CronJob) any { return int64(len(cj.Status.Active)) }},
			{Name: "Last Schedule", Description: batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"], Get: func(cj *batchv1.CronJob) any {
				if cj.Status.LastScheduleTime == nil {
					return "<none>"
				}
				return resource.Age(*cj.Status.LastScheduleTime)
			}},
		},
		core.TemplateColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"],
			func(cj *batchv1.CronJob) *corev1.PodSpec { return &cj.Spec.JobTemplate.Spec.Template.Spec },
			func(cj *batchv1.CronJob) string { return metav1.FormatLabelSelector(cj.Spec.JobTemplate.Spec.Selector) }),
	)...),
}

func suspendCell(cj *batchv1.CronJob) any {
	switch {
	case cj.Spec.Suspend == nil:
		return "<unset>"
	case *cj.Spec.Suspend:
		return "True"
	}
	return "False"
}

func defaultCronJob(cj *batchv1.CronJob) {
	resource.SetDefault(&cj.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	resource.SetDefaultPtr(&cj.Spec.Suspend, false)
	resource.SetDefaultPtr(&cj.Spec.SuccessfulJobsHistoryLimit, 3)
	resource.SetDefaultPtr(&cj.Spec.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&cj.Spec.JobTemplate.Spec)
}

func validateCronJobSpec(spec, old *batchv1.CronJobSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	switch {
	case spec.Schedule == "":
		errs = append(errs, field.Required(path.Child("schedule"), ""))
	case old == nil || old.Schedule != spec.Schedule || !ptr.Equal(old.TimeZone, spec.TimeZone):
		errs = append(errs, validateSchedule(spec, old, path.Child("schedule"))...)
	}
	if spec.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, spec.TimeZone)) {
		errs = append(errs, validateTimeZone(*spec.TimeZone, path.Child("timeZone"))...)
	}
	errs = append(errs, validate.NonnegativePtr(spec.StartingDeadlineSeconds, path.Child("startingDeadlineSeconds"))...)
	errs = append(errs, validate.RequiredOneOf(spec.ConcurrencyPolicy, path.Child("concurrencyPolicy"),
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, validate.NonnegativePtr(spec.SuccessfulJobsHistoryLimit, path.Child("successfulJobsHistoryLimit"))...)
	errs = append(errs, validate.NonnegativePtr(spec.FailedJobsHistoryLimit, path.Child("failedJobsHistoryLimit"))...)
	return append(errs, validateJobTemplate(&spec.JobTemplate, old, path.Child("jobTemplate"))...)
}

func validateJobTemplate(template *batchv1.JobTemplateSpec, old *batchv1.CronJobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList // the metadata of the template is judged when a job is made of it
	spec := path.Child("spec")
	if template.Spec.Selector != nil {
		errs = append(errs, field.Invalid(spec.Child("selector"), template.Spec.Selector, "`selector` will be auto-generated"))
	}
	if ptr.Deref(template.Spec.ManualSelector, false) {
		errs = append(errs, field.NotSupported(spec.Child("manualSelector"), template.Spec.ManualSelector, []string{"nil", "false"}))
	}
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.JobTemplate.Spec.Template
	}
	return append(errs, validateJobTemplatePart(&template.Spec, oldTemplate, spec)...)
}

func validateSchedule(spec, old *batchv1.CronJobSpec, path *field.Path) field.ErrorList {
	if strings.Contains(spec.Schedule, "TZ") {
		// The parser would take it, but an object stored long ago may keep it only as long as it has no zone besides.
		if old == nil || !strings.Contains(old.Schedule, "TZ") {
			return field.ErrorList{field.Invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")}
		}
		if spec.TimeZone != nil {
			return field.ErrorList{field.Invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")}
		}
		return nil
	}
	if _, err := cron.ParseStandard(spec.Schedule); err != nil {
		return field.ErrorList{field.Invalid(path, spec.Schedule, err.Error())}
	}
	return nil
}

// zonePart is what the names of the IANA database are made of.
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_]{1,14}$|^[A-Za-z0-9\.\-_+]{1,14}$`)

func validateTimeZone(zone string, path *field.Path) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+zone)}
		}
	}
	if strings.EqualFold(zone, "Local") {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")}
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return field.ErrorList{field.Invalid(path, zone, err.Error())}
	}
	return nil
}
