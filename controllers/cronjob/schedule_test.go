package cronjob

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestLatestDue(t *testing.T) {
	day := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	at := func(h, m int) time.Time { return day.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute) }
	cases := map[string]struct {
		schedule string
		zone     *string
		created  time.Time
		last     time.Time
		deadline *int64
		now      time.Time
		want     time.Time
		next     time.Time
		many     bool
	}{
		"not yet":                  {schedule: "0 * * * *", created: at(10, 10), now: at(10, 50), next: at(11, 0)},
		"due":                      {schedule: "0 * * * *", created: at(10, 10), now: at(11, 0), want: at(11, 0), next: at(12, 0)},
		"after the last one":       {schedule: "*/10 * * * *", created: at(1, 0), last: at(10, 0), now: at(10, 35), want: at(10, 30), next: at(10, 40)},
		"away for very long":       {schedule: "* * * * *", created: day.AddDate(-2, 0, 0), now: at(10, 0), want: at(10, 0), next: at(10, 1), many: true},
		"only within the deadline": {schedule: "0 * * * *", created: at(1, 0), deadline: ptr.To[int64](600), now: at(10, 30), next: at(11, 0)},
		"in a time zone":           {schedule: "0 9 * * *", zone: new("Asia/Tokyo"), created: day.AddDate(0, 0, -1), now: at(0, 30), want: at(0, 0), next: at(24, 0)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(tc.created)}}
			zone := tc.zone
			if zone == nil {
				zone = new("UTC")
			}
			cj.Spec = batchv1.CronJobSpec{Schedule: tc.schedule, TimeZone: zone, StartingDeadlineSeconds: tc.deadline}
			if !tc.last.IsZero() {
				cj.Status.LastScheduleTime = new(metav1.NewTime(tc.last))
			}
			schedule, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			got := latestDue(cj, schedule, tc.now)
			if !got.at.Equal(tc.want) || !got.next.Equal(tc.next) || got.missed > tooManyMissed != tc.many {
				t.Errorf("latestDue = %v, next %v, missed %d; want %v, next %v", got.at, got.next, got.missed, tc.want, tc.next)
			}
		})
	}
}
