package why

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

func TestLogIsBounded(t *testing.T) {
	l := NewLog()
	for i := range maxPods + 10 {
		l.Add(types.UID(fmt.Sprint(i)), Decision{Message: "first"})
	}
	if n := len(l.pods); n != maxPods || len(l.order) != maxPods {
		t.Errorf("%d pods, %d in order; want %d", n, len(l.order), maxPods)
	}
	if l.Of("0") != nil || l.Of(types.UID(fmt.Sprint(maxPods+9))) == nil {
		t.Error("the oldest should be gone, and the newest there")
	}
	for i := range maxDecisions + 3 {
		l.Add("p", Decision{Message: fmt.Sprint(i)})
	}
	got := l.Of("p")
	if len(got) != maxDecisions || got[0].Message != fmt.Sprint(maxDecisions+2) {
		t.Errorf("%d decisions, the newest %q", len(got), got[0].Message)
	}
}

func TestRefusalsAreFew(t *testing.T) {
	statuses := []*fwk.Status{fwk.NewStatus(fwk.Unschedulable, "a").WithPlugin("A"), fwk.NewStatus(fwk.Unschedulable, "b").WithPlugin("B"), nil}
	var nodes []fwk.NodeInfo
	for i := range 2 * maxRefusals {
		info := nodeinfo.New()
		info.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}})
		nodes = append(nodes, info)
	}
	got := Refusals(nodes, func(node string) *fwk.Status { i, _ := strconv.Atoi(node); return statuses[i%3] })
	if len(got) != 2 || got[0].Plugin != "A" || got[1].Reasons[0] != "b" || len(got[0].Nodes) != (maxRefusals+2)/3 || got[1].Nodes[1] != "4" {
		t.Errorf("got %+v", got)
	}
}

func TestSentence(t *testing.T) {
	facts := Facts{Asks: func(string) string { return "9" }, Free: func(string) string { return "1900m" }}
	refused := func(node, plugin, reason string) Verdict {
		return Verdict{Node: node, Plugin: plugin, Reasons: []string{reason}}
	}
	cases := map[string]struct {
		nodes []Verdict
		want  string
	}{
		"None": {nil, "Pod a/b waits because the cluster has no nodes."},
		"Resources": {
			[]Verdict{refused("n1", "NodeResourcesFit", "Insufficient cpu"), refused("n2", "NodeResourcesFit", "Insufficient cpu")},
			"Pod a/b waits because on all 2 nodes too little cpu is free (the pod asks for 9, the most that is free on one node is 1900m).",
		},
		"MostFirst": {
			[]Verdict{refused("n1", "NodeUnschedulable", "node(s) were unschedulable"), refused("n2", "TaintToleration", "node(s) had untolerated taint(s)"), refused("n3", "TaintToleration", "node(s) had untolerated taint(s)")},
			"Pod a/b waits because on 2 of 3 nodes the node has a taint that the pod does not tolerate; on 1 of 3 nodes the node is cordoned.",
		},
		"UnknownPlugin": {[]Verdict{refused("n1", "Theirs", "no luck today")}, "Pod a/b waits because on the only node no luck today."},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			reasons := Group(tc.nodes)
			for i := range reasons {
				reasons[i].Remedy = Remedy(reasons[i], facts)
			}
			if got := Sentence("a/b", len(tc.nodes), reasons); got != tc.want {
				t.Errorf("got:  %s\nwant: %s", got, tc.want)
			}
		})
	}
}

// TestEveryRuleSaysWhatToDo keeps the table honest: each refusal of a known plugin has a remedy and fills its placeholder.
func TestEveryRuleSaysWhatToDo(t *testing.T) {
	facts := Facts{Asks: func(string) string { return "1" }, Free: func(string) string { return "0" }}
	for _, rule := range rules {
		r := Reason{Plugin: rule.plugin, Reason: rule.prefix + "something"}
		if r.Remedy = Remedy(r, facts); r.Remedy == "" {
			t.Errorf("%s, %q: no remedy", rule.plugin, rule.prefix)
		}
		if text := plain(r); strings.Contains(text, "%s") || text == r.Reason {
			t.Errorf("%s, %q: %q", rule.plugin, rule.prefix, text)
		}
	}
}
