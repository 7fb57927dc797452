// Package why keeps what the scheduler has decided about pods, and words it for people: which node was refused by what, and what would
// have to change. It is pure but for its log.
package why

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"
)

// Bounds of the log. With all of them reached it takes about 10 MB.
const (
	maxPods      = 2000 // who asks, asks about a pod of the last minutes
	maxDecisions = 4    // of one pod: enough to see whether the reason changes
	maxRefusals  = 64   // nodes of one decision: who asks later gets the table of all nodes as they are then
)

// Decision is what one attempt ended with.
type Decision struct {
	Time     time.Time `json:"time"`
	Node     string    `json:"node,omitempty"` // that the pod goes to
	Message  string    `json:"message"`        // as the event has it
	Refusals []Refusal `json:"refusals,omitempty"`
}

// Refusal is what refused some nodes, and those of them that came first.
type Refusal struct {
	Plugin  string   `json:"plugin"`
	Reasons []string `json:"reasons"`
	Nodes   []string `json:"nodes"`
}

// Verdict is what the plugins say about a node.
type Verdict struct {
	Node    string           `json:"node"`
	Plugin  string           `json:"plugin,omitempty"` // that refused it
	Reasons []string         `json:"reasons,omitempty"`
	Score   int64            `json:"score,omitempty"` // of a node that all accept
	Scores  map[string]int64 `json:"scores,omitempty"`
}

// Fits says whether no plugin refused the node.
func (v Verdict) Fits() bool { return v.Plugin == "" && len(v.Reasons) == 0 }

// Reason is why some nodes were refused.
type Reason struct {
	Plugin string `json:"plugin"`
	Reason string `json:"reason"`
	Nodes  int    `json:"nodes"`
	Remedy string `json:"remedy,omitempty"` // what would have to change
}

// State is where a pod is.
type State string

// The states.
const (
	Bound     State = "Bound"     // it has its node
	Gated     State = "Gated"     // its own gates hold it back
	NotOurs   State = "NotOurs"   // it asks for another scheduler
	Ending    State = "Ending"    // it is being deleted
	Nominated State = "Nominated" // it waits for pods to go that make room for it
	Waiting   State = "Waiting"   // no node takes it
	Fitting   State = "Fitting"   // a node takes it now
)

// Answer is what there is to say about a pod.
type Answer struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	State     State      `json:"state"`
	Sentence  string     `json:"sentence"`
	Node      string     `json:"node,omitempty"`
	Reasons   []Reason   `json:"reasons,omitempty"`
	Nodes     []Verdict  `json:"nodes,omitempty"`   // all of them, as they are now
	History   []Decision `json:"history,omitempty"` // the newest first
}

// Log holds the last decisions. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	pods  map[types.UID][]Decision
	order []types.UID // the one that has been known longest first
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{pods: map[types.UID][]Decision{}} }

// Add notes a decision about a pod.
func (l *Log) Add(pod types.UID, d Decision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, known := l.pods[pod]
	if !known {
		if len(l.order) == maxPods {
			delete(l.pods, l.order[0])
			l.order = append(l.order[:0], l.order[1:]...)
		}
		l.order = append(l.order, pod)
	}
	l.pods[pod] = append(have[max(0, len(have)-maxDecisions+1):], d)
}

// Of returns what is remembered of a pod, the newest decision first.
func (l *Log) Of(pod types.UID) []Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.pods[pod])
	slices.Reverse(out)
	return out
}

// Refusals groups the first nodes by what the status function says of them. On columns, equal statuses are one object.
func Refusals(nodes []fwk.NodeInfo, of func(node string) *fwk.Status) (out []Refusal) {
	at := map[*fwk.Status]int{}
	for _, n := range nodes[:min(len(nodes), maxRefusals)] {
		name := n.Node().Name
		status := of(name)
		if status == nil || status.Plugin() == "" {
			continue
		}
		i, known := at[status]
		if !known {
			i = len(out)
			at[status] = i
			out = append(out, Refusal{Plugin: status.Plugin(), Reasons: status.Reasons()})
		}
		out[i].Nodes = append(out[i].Nodes, name)
	}
	return out
}

// Group counts the nodes of each reason, the most frequent first.
func Group(nodes []Verdict) []Reason {
	var out []Reason
	for _, v := range nodes {
		for _, text := range v.Reasons {
			i := slices.IndexFunc(out, func(r Reason) bool { return r.Reason == text && r.Plugin == v.Plugin })
			if i < 0 {
				out = append(out, Reason{Plugin: v.Plugin, Reason: text})
				i = len(out) - 1
			}
			out[i].Nodes++
		}
	}
	slices.SortStableFunc(out, func(a, b Reason) int { return b.Nodes - a.Nodes })
	return out
}

// Sentence says in one sentence why a pod waits on a cluster of that many nodes.
func Sentence(pod string, nodes int, reasons []Reason) string {
	if nodes == 0 {
		return fmt.Sprintf("Pod %s waits because the cluster has no nodes.", pod)
	}
	if len(reasons) == 0 {
		return fmt.Sprintf("Pod %s waits, and no plugin says why.", pod)
	}
	var parts []string
	for _, r := range reasons {
		text := plain(r)
		if r.Nodes > 0 {
			text = fmt.Sprintf("%s %s", onNodes(r.Nodes, nodes), text)
		}
		parts = append(parts, text)
	}
	return fmt.Sprintf("Pod %s waits because %s.", pod, strings.Join(parts, "; "))
}

func onNodes(n, all int) string {
	switch {
	case n == all && n == 1:
		return "on the only node"
	case n == all:
		return fmt.Sprintf("on all %d nodes", all)
	case n == 1:
		return fmt.Sprintf("on 1 of %d nodes", all)
	}
	return fmt.Sprintf("on %d of %d nodes", n, all)
}
