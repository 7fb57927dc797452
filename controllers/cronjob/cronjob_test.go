package cronjob

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"keelson.dev/internal/expectation"
	"keelson.dev/internal/lister"
)

// TestJobIsSeenFirst: the cache shows a Job before it shows the CronJob that lists it as active. That is no unexpected Job, and the list is
// not written from what is old.
func TestJobIsSeenFirst(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 30, 0, time.UTC)
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *"},
	}
	api := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(cj).WithStatusSubresource(cj).Build()
	stored := func() *batchv1.CronJob {
		t.Helper()
		got := &batchv1.CronJob{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(cj), got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	cronJobs := lister.Of[*batchv1.CronJob]{Indexer: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{})}
	jobs := lister.Of[*batchv1.Job]{Indexer: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{
		lister.ByController: func(obj any) ([]string, error) {
			return []string{lister.ControllerKey("ns", obj.(*batchv1.Job).OwnerReferences[0].UID)}, nil
		},
	})}
	events := record.NewFakeRecorder(10)
	r := &Reconciler{Client: api, CronJobs: cronJobs, Jobs: jobs, Recorder: events, Clock: clocktesting.NewFakePassiveClock(now), own: expectation.New(cronJobs)}
	reconcile := func() ctrl.Result {
		t.Helper()
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(cj)})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	must(cronJobs.Add(stored()))
	reconcile()
	list := &batchv1.JobList{}
	must(api.List(t.Context(), list))
	if len(list.Items) != 1 || len(stored().Status.Active) != 1 {
		t.Fatalf("%d jobs, status %+v", len(list.Items), stored().Status)
	}
	must(jobs.Add(&list.Items[0]))
	if result := reconcile(); result.RequeueAfter != expectation.Retry {
		t.Errorf("the old CronJob was acted on: %+v", result)
	}
	must(cronJobs.Update(stored()))
	if result := reconcile(); result.RequeueAfter != 30*time.Second {
		t.Errorf("the next time is in %v", result.RequeueAfter)
	}
	close(events.Events)
	for event := range events.Events {
		if !strings.Contains(event, "SuccessfulCreate") {
			t.Errorf("event %q", event)
		}
	}
}
