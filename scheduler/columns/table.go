// Package columns holds the state of the nodes as columns, one row ("slot") per node, kept up to date by deltas. Filters and scores
// that run on columns look at many nodes in one pass and, through the journal, only at those that changed since the last one.
package columns

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
)

// Capacity is what the nodes have of one resource and what is taken of it.
type Capacity struct{ Total, Used []int64 }

// TaintSet is the taints of one or more nodes. Nodes with equal taints share it, so that tolerations are matched once for all.
type TaintSet struct {
	Taints []corev1.Taint
	key    string
	nodes  int
}

// Table is the nodes as columns. Only the scheduling loop touches it.
type Table struct {
	// Nodes is nil in a slot that is free.
	Nodes         []*nodeinfo.NodeInfo
	Unschedulable []bool
	// Taints is nil for a node without any.
	Taints []*TaintSet
	// NonZeroCPU and NonZeroMemory count containers without requests with the defaults for scoring.
	CPU, Memory, Storage, Pods, NonZeroCPU, NonZeroMemory Capacity

	// HasTerms says that pods on the node have affinity terms; WithTerms counts such nodes.
	HasTerms  []bool
	WithTerms int
	// Lowest is the lowest priority of the pods on the node, MaxInt32 without any.
	Lowest []int32
	// Images are those that some node holds, by name; all nodes share the summaries.
	Images map[string]*fwk.ImageStateSummary

	slots     map[string]int32
	free      []int32
	taintSets map[string]*TaintSet
	labels    map[string]*Labels
	journal   journal
	epoch     int
}

// NewTable returns a table without nodes.
func NewTable() *Table {
	return &Table{
		Images: map[string]*fwk.ImageStateSummary{}, slots: map[string]int32{}, taintSets: map[string]*TaintSet{}, labels: map[string]*Labels{},
	}
}

// Len returns the number of slots, free ones included.
func (t *Table) Len() int { return len(t.Nodes) }

// Count returns the number of nodes.
func (t *Table) Count() int { return len(t.slots) }

// Slot returns the slot of a node.
func (t *Table) Slot(node string) (int32, bool) {
	slot, ok := t.slots[node]
	return slot, ok
}

// Epoch changes when slots' numbers of label values have been given anew: what was remembered of them is void.
func (t *Table) Epoch() int { return t.epoch }

// SetNode takes over a node, new or changed, with all of its pods.
func (t *Table) SetNode(n *nodeinfo.NodeInfo) {
	node := n.Node()
	slot, ok := t.slots[node.Name]
	if !ok {
		slot = t.allot()
		t.slots[node.Name] = slot
		t.Nodes[slot] = n
	}
	t.Unschedulable[slot] = node.Spec.Unschedulable
	t.setTaints(slot, node.Spec.Taints)
	for key, column := range t.labels {
		column.set(slot, node.Labels, key)
	}
	t.renumber()
	t.count(slot)
	t.journal.add(slot, true)
}

// RemoveNode frees a node's slot.
func (t *Table) RemoveNode(name string) {
	slot, ok := t.slots[name]
	if !ok {
		return
	}
	delete(t.slots, name)
	t.Nodes[slot] = nil
	t.setTaints(slot, nil)
	t.setTerms(slot, false)
	for _, column := range t.labels {
		column.IDs[slot] = 0
	}
	t.free = append(t.free, slot)
	t.journal.add(slot, true)
}

// PodsChanged takes over the sums of a node whose pods have changed.
func (t *Table) PodsChanged(name string) {
	if slot, ok := t.slots[name]; ok {
		t.count(slot)
		t.journal.add(slot, false)
	}
}

func (t *Table) capacities() []*Capacity {
	return []*Capacity{&t.CPU, &t.Memory, &t.Storage, &t.Pods, &t.NonZeroCPU, &t.NonZeroMemory}
}

func (t *Table) allot() int32 {
	if last := len(t.free) - 1; last >= 0 {
		slot := t.free[last]
		t.free = t.free[:last]
		return slot
	}
	t.Nodes = append(t.Nodes, nil)
	t.Unschedulable = append(t.Unschedulable, false)
	t.Taints = append(t.Taints, nil)
	t.HasTerms = append(t.HasTerms, false)
	t.Lowest = append(t.Lowest, math.MaxInt32)
	for _, c := range t.capacities() {
		c.Total, c.Used = append(c.Total, 0), append(c.Used, 0)
	}
	for _, column := range t.labels {
		column.IDs = append(column.IDs, 0)
	}
	return int32(len(t.Nodes) - 1) //nolint:gosec // nobody has so many nodes
}

func (t *Table) count(slot int32) {
	n := t.Nodes[slot]
	total, used, nonZero := n.GetAllocatable(), n.GetRequested(), n.GetNonZeroRequested()
	t.CPU.Total[slot], t.CPU.Used[slot] = total.GetMilliCPU(), used.GetMilliCPU()
	t.Memory.Total[slot], t.Memory.Used[slot] = total.GetMemory(), used.GetMemory()
	t.Storage.Total[slot], t.Storage.Used[slot] = total.GetEphemeralStorage(), used.GetEphemeralStorage()
	t.Pods.Total[slot], t.Pods.Used[slot] = int64(total.GetAllowedPodNumber()), int64(len(n.GetPods()))
	t.NonZeroCPU.Total[slot], t.NonZeroCPU.Used[slot] = total.GetMilliCPU(), nonZero.GetMilliCPU()
	t.NonZeroMemory.Total[slot], t.NonZeroMemory.Used[slot] = total.GetMemory(), nonZero.GetMemory()
	t.setTerms(slot, len(n.GetPodsWithAffinity()) > 0)
	t.Lowest[slot] = math.MaxInt32
	for _, p := range n.GetPods() {
		t.Lowest[slot] = min(t.Lowest[slot], corev1helpers.PodPriority(p.GetPod()))
	}
}

func (t *Table) setTerms(slot int32, has bool) {
	if has != t.HasTerms[slot] {
		t.HasTerms[slot] = has
		t.WithTerms--
		if has {
			t.WithTerms += 2
		}
	}
}

func (t *Table) setTaints(slot int32, taints []corev1.Taint) {
	if old := t.Taints[slot]; old != nil {
		if old.nodes--; old.nodes == 0 {
			delete(t.taintSets, old.key)
		}
		t.Taints[slot] = nil
	}
	if len(taints) == 0 {
		return
	}
	var b strings.Builder
	for i := range taints {
		for _, s := range []string{taints[i].Key, taints[i].Value, string(taints[i].Effect)} {
			b.WriteString(s)
			b.WriteByte(0)
		}
	}
	set, ok := t.taintSets[b.String()]
	if !ok {
		set = &TaintSet{Taints: taints, key: b.String()}
		t.taintSets[set.key] = set
	}
	set.nodes++
	t.Taints[slot] = set
}

// Labels is the values of one label, numbered from 1; 0 stands for a node without it.
type Labels struct {
	IDs    []int32
	values map[string]int32
}

// Count is one more than the highest number given so far.
func (l *Labels) Count() int { return len(l.values) + 1 }

func (l *Labels) set(slot int32, labels map[string]string, key string) {
	value, ok := labels[key]
	if !ok {
		l.IDs[slot] = 0
		return
	}
	id, ok := l.values[value]
	if !ok {
		id = int32(len(l.values) + 1) //nolint:gosec // nobody has so many nodes
		l.values[value] = id
	}
	l.IDs[slot] = id
}

// Label returns the column of a label. It exists from its first use on.
func (t *Table) Label(key string) *Labels {
	if column, ok := t.labels[key]; ok {
		return column
	}
	column := &Labels{IDs: make([]int32, t.Len()), values: map[string]int32{}}
	for slot, n := range t.Nodes {
		if n != nil {
			column.set(int32(slot), n.Node().Labels, key) //nolint:gosec // an index
		}
	}
	t.labels[key] = column
	return column
}

// renumber starts the label columns anew when most of the values that they number are those of nodes that have gone.
func (t *Table) renumber() {
	for _, column := range t.labels {
		if len(column.values) > 2*t.Len()+64 {
			clear(t.labels)
			t.epoch++
			return
		}
	}
}

// journal lists the slots that changed, oldest first. An entry is the slot times two, plus one if the Node itself changed.
type journal struct {
	entries []int32
	base    uint64
}

func (j *journal) add(slot int32, node bool) {
	entry := slot << 1
	if node {
		entry |= 1
	}
	j.entries = append(j.entries, entry)
}

// Now is the position up to which a reader has seen everything.
func (t *Table) Now() uint64 { return t.journal.base + uint64(len(t.journal.entries)) }

// Since returns the slots that have changed since a position: all of them, and those whose Node has. When too much has been
// forgotten, ok is false and everything must be looked at.
func (t *Table) Since(at uint64) (changed, nodes []int32, ok bool) {
	if limit := 4*t.Len() + 4096; len(t.journal.entries) > limit {
		drop := len(t.journal.entries) - limit/2
		t.journal.entries = slices.Delete(t.journal.entries, 0, drop)
		t.journal.base += uint64(drop) //nolint:gosec // positive
	}
	if at < t.journal.base {
		return nil, nil, false
	}
	for _, entry := range t.journal.entries[at-t.journal.base:] {
		changed = append(changed, entry>>1)
		if entry&1 != 0 {
			nodes = append(nodes, entry>>1)
		}
	}
	return unique(changed), unique(nodes), true
}

func unique(slots []int32) []int32 {
	if len(slots) < 2 {
		return slots
	}
	slices.Sort(slots)
	return slices.Compact(slots)
}

// All returns every slot.
func (t *Table) All() []int32 {
	out := make([]int32, t.Len())
	for i := range out {
		out[i] = int32(i) //nolint:gosec // an index
	}
	return out
}
