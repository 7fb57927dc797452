package cronjob

import (
	"fmt"
	"maps"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tooManyMissed is how many missed times are told about; the latest one is started all the same.
const tooManyMissed = 100

// parse reads the schedule in its time zone; without one it is in that of this process.
func parse(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if zone := cj.Spec.TimeZone; zone != nil {
		if _, err := time.LoadLocation(*zone); err != nil {
			return nil, fmt.Errorf("unknown time zone %q: %w", *zone, err)
		}
		text = "TZ=" + *zone + " " + text
	}
	return cron.ParseStandard(text)
}

// dueTime is the latest time that a schedule has asked for, if any, and the one after now.
type dueTime struct {
	at     time.Time
	next   time.Time
	missed int
}

// latestDue looks for due times since the last start, or the creation, but no further back than the starting deadline.
func latestDue(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) dueTime {
	since := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		since = cj.Status.LastScheduleTime.Time
	}
	if limit := cj.Spec.StartingDeadlineSeconds; limit != nil {
		if earliest := now.Add(-time.Duration(*limit) * time.Second); earliest.After(since) {
			since = earliest
		}
	}
	due := dueTime{next: schedule.Next(now)}
	first := schedule.Next(since)
	if first.IsZero() || first.After(now) {
		return due
	}
	// Times lie at most some minutes to years apart. Jump near now first, so that a CronJob that was away for long costs nothing.
	second := schedule.Next(first)
	step := second.Sub(first)
	due.at, due.missed = first, 1
	if !second.IsZero() && step > 0 {
		if skip := int64(now.Sub(first)/step) - 1; skip > tooManyMissed {
			due.missed += int(skip)
			if near := schedule.Next(now.Add(-2 * step)); !near.After(now) {
				due.at = near
			}
		}
	}
	for t := schedule.Next(due.at); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
		due.at = t
		due.missed++
	}
	return due
}

// newJob returns the Job of a scheduled time. Its name follows from the time, so that the same start is never made twice.
func newJob(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	annotations := maps.Clone(cj.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	stamp := at
	if cj.Spec.TimeZone != nil {
		if zone, err := time.LoadLocation(*cj.Spec.TimeZone); err == nil {
			stamp = at.In(zone)
		}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = stamp.Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60),
			Labels: maps.Clone(cj.Spec.JobTemplate.Labels), Annotations: annotations,
			CreationTimestamp: metav1.NewTime(at),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
}
