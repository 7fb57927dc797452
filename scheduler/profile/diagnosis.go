package profile

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
)

// Diagnosis says why no node fits. It implements fwk.NodeToStatusReader.
type Diagnosis struct {
	// NodeStatus is the refusal of each node that was asked.
	NodeStatus map[string]*fwk.Status
	// Absent stands for the nodes that were not asked, because a PreFilter plugin excluded them.
	Absent *fwk.Status
	// PreFilterMessage is set when a PreFilter plugin refused the pod as such.
	PreFilterMessage string
	// PostFilterMessage is what the PostFilter plugins add.
	PostFilterMessage string
	// Rejectors are the plugins that refused; Pending those that only want to be asked again.
	Rejectors, Pending sets.Set[string]

	// A decision on columns leaves its refusals by slot, and how many nodes have each.
	table   *columns.Table
	refused []*fwk.Status
	counts  map[*fwk.Status]int
}

var _ fwk.NodeToStatusReader = &Diagnosis{}

// NewDiagnosis returns an empty Diagnosis.
func NewDiagnosis() *Diagnosis {
	return &Diagnosis{
		NodeStatus: map[string]*fwk.Status{},
		Absent:     fwk.NewStatus(fwk.UnschedulableAndUnresolvable),
		Rejectors:  sets.New[string](),
		Pending:    sets.New[string](),
	}
}

// OnColumns takes over the refusals of a decision on columns, by slot. The diagnosis is then valid until the next decision.
func (d *Diagnosis) OnColumns(t *columns.Table, refused []*fwk.Status) {
	d.table, d.refused, d.counts = t, refused, map[*fwk.Status]int{}
	var last *fwk.Status
	run := 0
	for slot, status := range refused {
		if t.Nodes[slot] == nil || status == nil {
			continue
		}
		if status == last {
			run++
			continue
		}
		d.count(last, run)
		last, run = status, 1
	}
	d.count(last, run)
}

func (d *Diagnosis) count(status *fwk.Status, n int) {
	if n > 0 {
		d.counts[status] += n
		d.Blame(status)
	}
}

// Has says whether some node is refused with the code.
func (d *Diagnosis) Has(code fwk.Code) bool {
	for status := range d.counts {
		if status.Code() == code {
			return true
		}
	}
	for _, status := range d.NodeStatus {
		if status.Code() == code {
			return true
		}
	}
	return false
}

// Get implements fwk.NodeToStatusReader.
func (d *Diagnosis) Get(node string) *fwk.Status {
	if s, ok := d.NodeStatus[node]; ok {
		return s
	}
	if d.table != nil {
		if slot, ok := d.table.Slot(node); ok && d.refused[slot] != nil {
			return d.refused[slot]
		}
	}
	return d.Absent
}

// NodesForStatusCode implements fwk.NodeToStatusReader.
func (d *Diagnosis) NodesForStatusCode(lister fwk.NodeInfoLister, code fwk.Code) ([]fwk.NodeInfo, error) {
	var out []fwk.NodeInfo
	if d.table != nil && len(d.NodeStatus) == 0 {
		for slot, status := range d.refused {
			if n := d.table.Nodes[slot]; n != nil && status.Code() == code {
				out = append(out, n)
			}
		}
		return out, nil
	}
	all, err := lister.List()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if d.Get(n.Node().Name).Code() == code {
			out = append(out, n)
		}
	}
	return out, nil
}

// Blame notes the plugin behind a refusal.
func (d *Diagnosis) Blame(status *fwk.Status) {
	if status.Plugin() == "" {
		return
	}
	if status.Code() == fwk.Pending {
		d.Pending.Insert(status.Plugin())
		return
	}
	d.Rejectors.Insert(status.Plugin())
}

// Count adds nodes that are refused alike, without naming them.
func (d *Diagnosis) Count(status *fwk.Status, nodes int) {
	if d.counts == nil {
		d.counts = map[*fwk.Status]int{}
	}
	d.count(status, nodes)
}

// Explain words the diagnosis as users know it: "0/3 nodes are available: 1 node(s) had …, 2 Insufficient cpu. preemption: …".
func (d *Diagnosis) Explain(numNodes int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", numNodes)
	if d.PreFilterMessage != "" {
		fmt.Fprintf(&b, " %s.", d.PreFilterMessage)
	} else if reasons := d.countReasons(numNodes); len(reasons) > 0 {
		fmt.Fprintf(&b, " %s.", strings.Join(reasons, ", "))
	}
	if d.PostFilterMessage != "" {
		fmt.Fprintf(&b, " %s", d.PostFilterMessage)
	}
	return b.String()
}

// countReasons returns "count reason" for each reason of a refusal, sorted.
func (d *Diagnosis) countReasons(numNodes int) []string {
	counts := map[string]int{}
	absent := numNodes - len(d.NodeStatus)
	for status, n := range d.counts {
		absent -= n
		for _, reason := range status.Reasons() {
			counts[reason] += n
		}
	}
	for _, status := range d.NodeStatus {
		for _, reason := range status.Reasons() {
			counts[reason]++
		}
	}
	if absent > 0 {
		for _, reason := range d.Absent.Reasons() {
			counts[reason] += absent
		}
	}
	out := make([]string, 0, len(counts))
	for reason, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(out)
	return out
}
