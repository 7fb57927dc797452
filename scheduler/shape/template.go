package shape

import (
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
)

// template is what is known of the pods of one template, by slot.
type template struct {
	at      uint64 // how far in the table's journal
	filters []filtering
	// refusedByNode are the refusals of the filters that look at the Node alone; refused are all.
	refusedByNode, refused []*fwk.Status
	scores                 []*rating // by score plugin; nil: no difference between nodes
	fixed                  []int64   // the weighted sum of the scores that are not scaled
}

type filtering struct {
	columns.Filter
	calls Calls
}

type rating struct {
	columns.Score
	calls   Calls
	weight  int64
	raw     []int64
	version uint64
	// zero is set while no node has a raw score, so that nothing needs to be scaled.
	zero bool
}

// template returns the pod's template, up to date.
func (e *Engine) template(pod fwk.PodInfo) *template {
	e.key = columns.Template(e.key[:0], pod)
	t, ok := e.templates.get(e.key)
	if !ok {
		t = &template{}
		for _, f := range e.filters {
			if filter := f.plugin.LocalFilter(e.table, pod); filter != nil {
				t.filters = append(t.filters, filtering{filter, f.calls})
			}
		}
		for _, s := range e.scores {
			var r *rating
			if score := s.plugin.LocalScore(e.table, pod); score != nil {
				r = &rating{Score: score, calls: s.calls, weight: s.weight}
			}
			t.scores = append(t.scores, r)
		}
		e.templates.put(e.key, t)
		t.sync(e, e.table.All(), e.table.All())
	} else if changed, nodes, ok := e.table.Since(t.at); ok {
		t.sync(e, changed, nodes)
	} else {
		t.sync(e, e.table.All(), e.table.All())
	}
	t.at = e.table.Now()
	return t
}

// sync looks anew at the slots that changed; nodes are those of them whose Node did.
func (t *template) sync(e *Engine, changed, nodes []int32) {
	table := e.table
	if missing := table.Len() - len(t.refused); missing > 0 {
		t.refused = append(t.refused, make([]*fwk.Status, missing)...)
		t.refusedByNode = append(t.refusedByNode, make([]*fwk.Status, missing)...)
		t.fixed = append(t.fixed, make([]int64, missing)...)
	}
	live := nodes[:0:0]
	for _, slot := range nodes {
		t.refusedByNode[slot] = nil
		if table.Nodes[slot] == nil {
			t.refusedByNode[slot] = free
			continue
		}
		live = append(live, slot)
	}
	t.filter(e, true, live, t.refusedByNode)
	anew := t.rate(e, live, true)
	open := changed[:0:0]
	for _, slot := range changed {
		t.refused[slot] = t.refusedByNode[slot]
		if table.Nodes[slot] != nil {
			open = append(open, slot)
		}
	}
	t.filter(e, false, open, t.refused)
	if t.rate(e, open, false) || anew {
		open = liveSlots(table)
	}
	for _, slot := range open {
		t.fixed[slot] = 0
		for _, r := range t.scores {
			if r != nil && r.Scale() == columns.AsIs {
				t.fixed[slot] += r.weight * r.raw[slot]
			}
		}
	}
}

func (t *template) filter(e *Engine, ofNode bool, slots []int32, refused []*fwk.Status) {
	for _, f := range t.filters {
		if f.OfNode() == ofNode && len(slots) > 0 {
			began := e.begin()
			f.Refuse(slots, refused)
			e.made(f.calls, len(slots), began)
		}
	}
}

// rate sets the raw scores of the slots and says whether it has set those of all nodes.
func (t *template) rate(e *Engine, slots []int32, ofNode bool) (all bool) {
	table := e.table
	for _, r := range t.scores {
		if r == nil || r.OfNode() != ofNode {
			continue
		}
		of := slots
		if missing := table.Len() - len(r.raw); missing > 0 {
			r.raw = append(r.raw, make([]int64, missing)...)
		}
		if v, ok := r.Score.(columns.Versioned); ok && v.Version() != r.version {
			r.version, all = v.Version(), true
			of = liveSlots(table)
		}
		if len(of) == 0 {
			continue
		}
		began := e.begin()
		r.Rate(of, r.raw)
		if r.Scale() != columns.AsIs {
			r.zero = allZero(r.raw)
		}
		e.made(r.calls, len(of), began)
	}
	return all
}

func liveSlots(table *columns.Table) []int32 {
	out := table.All()
	n := 0
	for _, slot := range out {
		if table.Nodes[slot] != nil {
			out[n] = slot
			n++
		}
	}
	return out[:n]
}

func allZero(values []int64) bool {
	for _, v := range values {
		if v != 0 {
			return false
		}
	}
	return true
}

// add adds the scaled and weighted scores.
func (r *rating) add(feasible []int32, total []int64) {
	var highest int64
	for _, slot := range feasible {
		highest = max(highest, r.raw[slot])
	}
	scale := r.Scale()
	for _, slot := range feasible {
		total[slot] += r.weight * scaled(scale, r.raw[slot], highest)
	}
}

func scaled(scale columns.Scale, raw, highest int64) int64 {
	switch {
	case highest == 0 && scale == columns.ToHighestReversed:
		return fwk.MaxScore
	case highest == 0:
		return 0
	case scale == columns.ToHighestReversed:
		return fwk.MaxScore - fwk.MaxScore*raw/highest
	default:
		return fwk.MaxScore * raw / highest
	}
}
