package scheduler

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/scheduler/why"
)

// ask asks the handlers of the port, behind its gate.
func (c *cluster) ask(method, query string, pod *corev1.Pod) (*why.Answer, int) {
	c.t.Helper()
	var body strings.Builder
	if pod != nil {
		if err := json.NewEncoder(&body).Encode(pod); err != nil {
			c.t.Fatal(err)
		}
	}
	recorder := httptest.NewRecorder()
	handler := c.scheduler.answerWhy
	if method == http.MethodPost {
		handler = c.scheduler.answerWhatIf
	}
	handler(recorder, httptest.NewRequest(method, WhyPath+query, strings.NewReader(body.String())))
	answer := &why.Answer{}
	if recorder.Code == http.StatusOK {
		if err := json.Unmarshal(recorder.Body.Bytes(), answer); err != nil {
			c.t.Fatal(err)
		}
	}
	return answer, recorder.Code
}

func TestWhy(t *testing.T) {
	taint := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }
	c := startCluster(t, testNode("a"), testNode("b", taint))
	c.create(testPod("big", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}
	}))
	c.create(testPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/hold"}} }))
	c.create(testPod("other", func(p *corev1.Pod) { p.Spec.SchedulerName = "theirs" }))
	c.create(testPod("bound"))
	c.nodeOf("bound")
	cases := map[string]struct {
		state          why.State
		sentence, node string
	}{
		"big":   {why.Waiting, "on 1 of 2 nodes too little cpu is free (the pod asks for 9, the most that is free on one node is 2)", "a"},
		"gated": {why.Gated, "held back by its own scheduling gates until somebody removes them: example.com/hold", ""},
		"other": {why.NotOurs, `waits for the scheduler "theirs"; this one serves default-scheduler`, ""},
		"bound": {why.Bound, "Pod default/bound has its node: a.", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c.eventually("the answer is there", func(context.Context) (bool, error) {
				got, code := c.ask(http.MethodGet, "?namespace=default&name="+name, nil)
				return code == http.StatusOK && got.State == tc.state && strings.Contains(got.Sentence, tc.sentence), nil
			})
		})
	}
	big, _ := c.ask(http.MethodGet, "?namespace=default&name=big", nil)
	if len(big.Nodes) != 2 || len(big.Reasons) != 2 || big.Reasons[0].Remedy == "" {
		t.Errorf("big: %+v", big)
	}
	c.eventually("the decision is remembered", func(context.Context) (bool, error) {
		big, _ = c.ask(http.MethodGet, "?namespace=default&name=big", nil)
		return len(big.History) > 0 && strings.HasPrefix(big.History[0].Message, "0/2 nodes are available: ") && len(big.History[0].Refusals) == 2, nil
	})
	if _, code := c.ask(http.MethodGet, "?namespace=default&name=nobody", nil); code != http.StatusNotFound {
		t.Errorf("a pod that does not exist: %d", code)
	}
}

func TestWhatIf(t *testing.T) {
	c := startCluster(t, testNode("a"), testNode("b"))
	c.create(testPod("first"))
	c.nodeOf("first") // so the scheduler has read the nodes
	pod := testPod("idea")
	pod.Spec.SchedulerName = corev1.DefaultSchedulerName
	got, code := c.ask(http.MethodPost, "", pod)
	if code != http.StatusOK || got.State != why.Fitting || len(got.Nodes) != 2 || got.Node == "" {
		t.Fatalf("%d, %+v", code, got)
	}
	for _, n := range got.Nodes {
		if n.Score == 0 || len(n.Scores) == 0 {
			t.Errorf("node %s has no scores: %+v", n.Node, n)
		}
	}
	if pods, err := c.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil || len(pods.Items) != 1 {
		t.Errorf("there are %d pods, %v", len(pods.Items), err)
	}
}

func TestMetricsHaveUpstreamsNames(t *testing.T) {
	c := startCluster(t, testNode("a"))
	c.create(testPod("p"))
	c.nodeOf("p")
	c.eventually("metrics", func(context.Context) (bool, error) {
		text := metricsOf(c.scheduler)
		for _, want := range []string{
			`scheduler_pending_pods{queue="active"} 0`, `scheduler_pending_pods{queue="gated"} 0`,
			`scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1`,
			`scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="scheduled"} 1`,
			`scheduler_pod_scheduling_sli_duration_seconds_count{attempts="1"} 1`, `scheduler_scheduling_algorithm_duration_seconds_count 1`,
			`scheduler_framework_extension_point_duration_seconds_count{extension_point="Bind",profile="default-scheduler",status="Success"} 1`,
			`scheduler_framework_extension_point_duration_seconds_count{extension_point="PreFilter",profile="default-scheduler",status="Success"} 1`,
			`scheduler_framework_extension_point_duration_seconds_count{extension_point="Filter",profile="default-scheduler",status="Success"} 1`,
			`scheduler_scheduler_cache_size{type="nodes"} 1`,
			`scheduler_plugin_evaluation_total{extension_point="Filter",plugin="NodeResourcesFit",profile="default-scheduler"} 1`,
			`scheduler_plugin_evaluation_total{extension_point="Score",plugin="NodeResourcesFit",profile="default-scheduler"} 1`,
		} {
			if !strings.Contains(text, want) {
				return false, nil
			}
		}
		return true, nil
	})
}

func metricsOf(s *Scheduler) string {
	recorder := httptest.NewRecorder()
	s.metrics.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, metricsPath, nil))
	return recorder.Body.String()
}
