package batch

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

func messages(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

// newJob reads the spec beside a valid template and goes the way of a create.
func newJob(t *testing.T, spec string) *batchv1.Job {
	t.Helper()
	j := parseJob(t, spec)
	defaultJob(j)
	prepareJob(j, nil)
	return j
}

func parseJob(t *testing.T, spec string) *batchv1.Job {
	t.Helper()
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "pi", UID: "1234"}}
	const template = `template: {spec: {restartPolicy: Never, containers: [{name: c, image: "pi:1"}]}}`
	for _, text := range []string{template, spec} {
		if err := yaml.UnmarshalStrict([]byte(text), &j.Spec); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func TestDefaultJob(t *testing.T) {
	cases := map[string]struct {
		spec                 string
		parallelism, backoff int32
		completions          *int32
		mode                 batchv1.CompletionMode
		podReplacement       batchv1.PodReplacementPolicy
	}{
		"nothing":      {`{}`, 1, 6, ptr.To[int32](1), batchv1.NonIndexedCompletion, batchv1.TerminatingOrFailed},
		"work queue":   {`{parallelism: 3}`, 3, 6, nil, batchv1.NonIndexedCompletion, batchv1.TerminatingOrFailed},
		"completions":  {`{completions: 3}`, 1, 6, ptr.To[int32](3), batchv1.NonIndexedCompletion, batchv1.TerminatingOrFailed},
		"per index":    {`{completions: 3, completionMode: Indexed, backoffLimitPerIndex: 1}`, 1, math.MaxInt32, ptr.To[int32](3), batchv1.IndexedCompletion, batchv1.TerminatingOrFailed},
		"failure rule": {`{podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: X}]}]}}`, 1, 6, ptr.To[int32](1), batchv1.NonIndexedCompletion, batchv1.Failed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, tc.spec)
			type got struct {
				Parallelism, Backoff int32
				Completions          *int32
				Mode                 batchv1.CompletionMode
				Replacement          batchv1.PodReplacementPolicy
			}
			want := got{tc.parallelism, tc.backoff, tc.completions, tc.mode, tc.podReplacement}
			if diff := cmp.Diff(want, got{*j.Spec.Parallelism, *j.Spec.BackoffLimit, j.Spec.Completions, *j.Spec.CompletionMode, *j.Spec.PodReplacementPolicy}); diff != "" {
				t.Errorf("defaults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGeneratedSelector(t *testing.T) {
	j := newJob(t, `{}`)
	want := map[string]string{"controller-uid": "1234", "batch.kubernetes.io/controller-uid": "1234", "job-name": "pi", "batch.kubernetes.io/job-name": "pi"}
	if diff := cmp.Diff(want, j.Spec.Template.Labels); diff != "" {
		t.Errorf("template labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"batch.kubernetes.io/controller-uid": "1234"}, j.Spec.Selector.MatchLabels); diff != "" {
		t.Errorf("selector (-want +got):\n%s", diff)
	}
	labelled := parseJob(t, `{}`)
	labelled.Spec.Template.Labels = map[string]string{"a": "b"}
	defaultJob(labelled)
	prepareJob(labelled, nil)
	if diff := cmp.Diff(labelled.Spec.Template.Labels, labelled.Labels); diff != "" || labelled.Labels["a"] != "b" {
		t.Errorf("the job's labels are those of the template (-want +got):\n%s", diff)
	}
}

func TestValidateJob(t *testing.T) {
	cases := map[string]struct {
		spec string
		want []string
	}{
		"valid":           {`{}`, nil},
		"negative":        {`{parallelism: -1, ttlSecondsAfterFinished: -2}`, []string{"spec.parallelism: Invalid value: -1: must be greater than or equal to 0", "spec.ttlSecondsAfterFinished: Invalid value: -2: must be greater than or equal to 0"}},
		"restart always":  {`{template: {spec: {restartPolicy: Always}}}`, []string{`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`}},
		"own selector":    {`{selector: {matchLabels: {a: b}}}`, []string{"spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"1234\"}}: `selector` not auto-generated", "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"1234\",\"batch.kubernetes.io/job-name\":\"pi\",\"controller-uid\":\"1234\",\"job-name\":\"pi\"}: `selector` does not match template `labels`"}},
		"foreign label":   {`{template: {metadata: {labels: {job-name: other}}}}`, []string{`spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"1234","batch.kubernetes.io/job-name":"pi","controller-uid":"1234","job-name":"other"}: must be 'pi'`}},
		"manual selector": {`{manualSelector: true, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}}}`, nil},
		"manual, none":    {`{manualSelector: true}`, []string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"}},
		"indexed":         {`{parallelism: 2, completionMode: Indexed}`, []string{"spec.completions: Required value: when completion mode is Indexed"}},
		"mode":            {`{completionMode: Sorted}`, []string{`spec.completionMode: Unsupported value: "Sorted": supported values: "NonIndexed", "Indexed"`}},
		"per index":       {`{backoffLimitPerIndex: 1}`, []string{"spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"}},
		"failed indexes":  {`{completionMode: Indexed, completions: 2, maxFailedIndexes: 3}`, []string{"spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified", "spec.maxFailedIndexes: Invalid value: 3: must be less than or equal to completions"}},
		"many indexes":    {`{completionMode: Indexed, completions: 100001, parallelism: 10001, backoffLimitPerIndex: 1}`, []string{"spec.maxFailedIndexes: Required value: must be specified when completions is above 100000", "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index"}},
		"managed by":      {`{managedBy: me}`, []string{`spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")`}},
		"replacement":     {`{podReplacementPolicy: TerminatingOrFailed, podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: X}]}]}}`, []string{`spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"`}},
		"failure policy": {`{podFailurePolicy: {rules: [{action: Hope}, {action: FailIndex, onExitCodes: {operator: In, values: [0, 2, 1, 1], containerName: z}, onPodConditions: [{type: a b}]}]}, template: {spec: {restartPolicy: OnFailure}}}`, []string{
			`spec.podFailurePolicy.rules[0].action: Unsupported value: "Hope": supported values: "Count", "FailIndex", "FailJob", "Ignore"`,
			"spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
			`spec.podFailurePolicy.rules[1].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`,
			`spec.podFailurePolicy.rules[1].onExitCodes.containerName: Invalid value: "z": must be one of the container or initContainer names in the pod template`,
			"spec.podFailurePolicy.rules[1].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
			"spec.podFailurePolicy.rules[1].onExitCodes.values[3]: Duplicate value: 1",
			"spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [0,2,1,1]: must be ordered",
			`spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			"spec.podFailurePolicy.rules[1]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
			`spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`,
		}},
		"success policy": {`{completionMode: Indexed, completions: 4, successPolicy: {rules: [{}, {succeededIndexes: "0-2", succeededCount: 4}, {succeededIndexes: "3,1"}, {succeededIndexes: "9"}]}}`, []string{
			"spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
			"spec.successPolicy.rules[1].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
			`spec.successPolicy.rules[2].succeededIndexes: Invalid value: "3,1": error parsing succeededIndexes: non-increasing order, previous: 3, current: 1`,
			`spec.successPolicy.rules[3].succeededIndexes: Invalid value: "9": error parsing succeededIndexes: too large index: "9"`,
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, messages(validateJob(newJob(t, tc.spec)))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateJobUpdate(t *testing.T) {
	nodeSelector := func(j *batchv1.Job) { j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"} }
	requests := func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{} }
	started := func(j *batchv1.Job) { j.Status.StartTime = &metav1.Time{Time: time.Unix(1, 0)} }
	cases := map[string]struct {
		spec        string
		old, mutate func(*batchv1.Job)
		want        []string // paths
	}{
		"suspend":                       {`{}`, nil, func(j *batchv1.Job) { j.Spec.Suspend = new(true) }, nil},
		"parallelism":                   {`{completions: 4}`, nil, func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To[int32](3) }, nil},
		"completions":                   {`{}`, nil, func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](3) }, []string{"spec.completions"}},
		"elastic":                       {`{completionMode: Indexed, completions: 2, parallelism: 2}`, nil, func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](3), ptr.To[int32](3) }, nil},
		"elastic out of step":           {`{completionMode: Indexed, completions: 2, parallelism: 2}`, nil, func(j *batchv1.Job) { j.Spec.Completions = ptr.To[int32](3) }, []string{"spec.completions"}},
		"template":                      {`{}`, nil, func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x:2" }, []string{"spec.template"}},
		"node selector":                 {`{}`, nil, nodeSelector, []string{"spec.template"}},
		"node selector while suspended": {`{suspend: true}`, nil, nodeSelector, nil},
		"resources while suspended":     {`{suspend: true}`, nil, requests, nil},
		"image while suspended":         {`{suspend: true}`, nil, func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x:2" }, []string{"spec.template.spec"}},
		"node selector after a start":   {`{suspend: true}`, started, nodeSelector, []string{"spec.template"}},
		"managed by":                    {`{}`, nil, func(j *batchv1.Job) { j.Spec.ManagedBy = new("a.io/b") }, []string{"spec.managedBy"}},
		"ttl":                           {`{}`, nil, func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = ptr.To[int32](1) }, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := newJob(t, tc.spec)
			if tc.old != nil {
				tc.old(old)
			}
			j := old.DeepCopy()
			tc.mutate(j)
			var got []string
			for _, err := range validateJobUpdate(j, old) {
				got = append(got, err.Field)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateJobStatus(t *testing.T) {
	start := metav1.NewTime(time.Unix(100, 0))
	condition := func(types ...batchv1.JobConditionType) (all []batchv1.JobCondition) {
		for _, conditionType := range types {
			all = append(all, batchv1.JobCondition{Type: conditionType, Status: corev1.ConditionTrue})
		}
		return all
	}
	cases := map[string]struct {
		status batchv1.JobStatus
		want   []string
	}{
		"running":  {batchv1.JobStatus{StartTime: &start, Active: 1, Ready: ptr.To[int32](1)}, nil},
		"complete": {batchv1.JobStatus{StartTime: &start, CompletionTime: &start, Succeeded: 1, Conditions: condition(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)}, nil},
		"bare complete": {batchv1.JobStatus{Active: 1, Conditions: condition(batchv1.JobComplete)}, []string{
			"status.active: Invalid value: 1: active>0 is invalid for finished job",
			"status.startTime: Required value: startTime is required for finished job",
			"status.completionTime: Required value: completionTime is required for Complete jobs",
			"status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
		}},
		"too ready": {batchv1.JobStatus{Ready: ptr.To[int32](1)}, []string{"status.ready: Invalid value: 1: cannot set more ready pods than active"}},
		"negative":  {batchv1.JobStatus{Active: -1}, []string{"status.active: Invalid value: -1: must be greater than or equal to 0"}},
		"indexes":   {batchv1.JobStatus{CompletedIndexes: "1"}, []string{`status.completedIndexes: Invalid value: "1": error parsing completedIndexes: too large index: "1"`, `status.completedIndexes: Invalid value: "1": cannot set non-empty completedIndexes when non-indexed completion mode`}},
		"uncounted": {batchv1.JobStatus{UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}, Failed: []types.UID{"a", ""}}}, []string{`status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"`, `status.uncountedTerminatedPods.failed[1]: Invalid value: "": must not be empty`}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := newJob(t, `{}`)
			j := old.DeepCopy()
			j.Status = tc.status
			if diff := cmp.Diff(tc.want, messages(validateJobStatus(j, old))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCronJob(t *testing.T) {
	cases := map[string]struct {
		spec string
		want []string
	}{
		"valid":         {`{schedule: "*/5 * * * *", timeZone: Europe/Berlin}`, nil},
		"macro":         {`{schedule: "@hourly"}`, nil},
		"no schedule":   {`{}`, []string{"spec.schedule: Required value"}},
		"bad schedule":  {`{schedule: "* * * *"}`, []string{`spec.schedule: Invalid value: "* * * *": expected exactly 5 fields, found 4: [* * * *]`}},
		"zone inside":   {`{schedule: "TZ=UTC 0 * * * *"}`, []string{`spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`}},
		"zone alone":    {`{schedule: "TZ=0"}`, []string{`spec.schedule: Invalid value: "TZ=0": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`}},
		"unknown zone":  {`{schedule: "@daily", timeZone: Mars/Base}`, []string{`spec.timeZone: Invalid value: "Mars/Base": unknown time zone Mars/Base`}},
		"local zone":    {`{schedule: "@daily", timeZone: local}`, []string{`spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones`}},
		"empty zone":    {`{schedule: "@daily", timeZone: ""}`, []string{`spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string`}},
		"escaping zone": {`{schedule: "@daily", timeZone: ../etc}`, []string{`spec.timeZone: Invalid value: "../etc": unknown time zone ../etc`}},
		"concurrency":   {`{schedule: "@daily", concurrencyPolicy: Queue}`, []string{`spec.concurrencyPolicy: Unsupported value: "Queue": supported values: "Allow", "Forbid", "Replace"`}},
		"selector":      {`{schedule: "@daily", jobTemplate: {spec: {manualSelector: true, selector: {matchLabels: {a: b}}}}}`, []string{"spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated", `spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`}},
		"restart":       {`{schedule: "@daily", jobTemplate: {spec: {template: {spec: {restartPolicy: Always}}}}}`, []string{`spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`}},
		"history":       {`{schedule: "@daily", successfulJobsHistoryLimit: -1}`, []string{"spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
			const template = `jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "pi:1"}]}}}}`
			for _, text := range []string{template, tc.spec} {
				if err := yaml.UnmarshalStrict([]byte(text), &cj.Spec); err != nil {
					t.Fatal(err)
				}
			}
			defaultCronJob(cj)
			if diff := cmp.Diff(tc.want, messages(cronJob.Validate(cj))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJobColumns(t *testing.T) {
	start, end := metav1.NewTime(time.Unix(100, 0)), metav1.NewTime(time.Unix(165, 0))
	cases := map[string]struct {
		job  batchv1.Job
		want [3]string // status, completions, duration at 200 s
	}{
		"new":        {batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](3)}}, [3]string{"Running", "0/3", ""}},
		"work queue": {batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3)}, Status: batchv1.JobStatus{Succeeded: 1, StartTime: &start}}, [3]string{"Running", "1/1 of 3", "100s"}},
		"complete": {batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1)}, Status: batchv1.JobStatus{
			Succeeded: 1, StartTime: &start, CompletionTime: &end,
			Conditions: []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}},
		}}, [3]string{"Complete", "1/1", "65s"}},
		"suspended": {batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}}}, [3]string{"Suspended", "0/1", ""}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := [3]string{jobStatus(&tc.job), completions(&tc.job), jobDuration(&tc.job, time.Unix(200, 0))}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("cells (-want +got):\n%s", diff)
			}
		})
	}
}
