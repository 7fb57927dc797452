// Package shape decides on columns. It remembers, for pods of one shape, which nodes refuse them and how the others score, and for
// the next pod of the shape looks only at the nodes that have changed since. Shapes are of two kinds: the template, which is about
// a pod and one node, and the relations of a pod to other pods.
package shape

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
)

// Shapes that are remembered; each takes some tens of bytes per node.
const (
	maxTemplates = 64
	maxRelations = 64
)

// Scorer is a score plugin and its weight.
type Scorer struct {
	fwk.ScorePlugin
	Weight int64
}

// Engine decides for the pods of one profile. Only the scheduling loop uses it.
type Engine struct {
	// Measure says that the time of the plugins' calls is to be taken.
	Measure bool

	table   *columns.Table
	filters []localFilter
	scores  []localScore
	related []relational
	// names are the plugins that the engine stands for.
	names sets.Set[string]

	templates *recent[*template]
	relations *recent[*followed]
	epoch     int

	key     []byte
	refused []*fwk.Status
	total   []int64
	chosen  []int32
}

// Calls is told of what one plugin does at one extension point.
type Calls interface {
	// Made counts one call that looked at so many nodes; took is 0 if it was not measured.
	Made(nodes int, took time.Duration)
}

type localFilter struct {
	plugin columns.LocalFilter
	calls  Calls
}

type localScore struct {
	plugin columns.LocalScore
	calls  Calls
	weight int64
}

type relational struct {
	columns.Relational
	filters         bool
	weight          int64 // 0: it does not score
	filtered, rated Calls
}

func (e *Engine) begin() (now time.Time) {
	if e.Measure {
		now = time.Now()
	}
	return now
}

func (e *Engine) made(c Calls, nodes int, began time.Time) {
	var took time.Duration
	if !began.IsZero() {
		took = time.Since(began)
	}
	c.Made(nodes, took)
}

// New returns an engine for the plugins that can work on columns; the others are left to the caller. It returns nil when the order
// of the plugins is not the one in which the engine asks them: local ones before relational ones. filtered and rated are told of the
// calls of each filter and score.
func New(table *columns.Table, filters []fwk.FilterPlugin, scores []Scorer, filtered, rated func(i int) Calls) *Engine {
	e := &Engine{table: table, names: sets.New[string](), templates: newRecent[*template](maxTemplates), relations: newRecent[*followed](maxRelations)}
	for i, f := range filters {
		switch p := f.(type) {
		case columns.LocalFilter:
			if len(e.related) > 0 {
				return nil
			}
			e.filters = append(e.filters, localFilter{p, filtered(i)})
		case columns.Relational:
			e.related = append(e.related, relational{Relational: p, filters: true, filtered: filtered(i)})
		default:
			continue
		}
		e.names.Insert(f.Name())
	}
	for k, s := range scores {
		switch p := s.ScorePlugin.(type) {
		case columns.LocalScore:
			e.scores = append(e.scores, localScore{p, rated(k), s.Weight})
		case columns.Relational:
			i := slices.IndexFunc(e.related, func(r relational) bool { return r.Name() == p.Name() })
			if i < 0 {
				i = len(e.related)
				e.related = append(e.related, relational{Relational: p})
			}
			e.related[i].weight, e.related[i].rated = s.Weight, rated(k)
		default:
			continue
		}
		e.names.Insert(s.Name())
	}
	return e
}

// Handles says whether the engine stands for a plugin.
func (e *Engine) Handles(plugin string) bool { return e.names.Has(plugin) }

// Names returns the plugins that the engine stands for.
func (e *Engine) Names() sets.Set[string] { return e.names }

// Decision is what the engine found for one pod. It is valid until the next.
type Decision struct {
	// Refused is the refusal of each slot, nil where the pod fits. Free slots hold a refusal too, of no plugin.
	Refused []*fwk.Status
	// Feasible are the slots where it fits.
	Feasible []int32

	template  *template
	owned     bool               // Refused is not the template's
	relations []columns.Relation // by relational plugin; nil: nothing to do
}

// free is the refusal of a slot without a node.
var free = fwk.NewStatus(fwk.UnschedulableAndUnresolvable)

// Filter finds the nodes that no filter of the engine refuses.
func (e *Engine) Filter(pod fwk.PodInfo) (*Decision, error) {
	if e.epoch != e.table.Epoch() {
		e.templates.clear()
		e.relations.clear()
		e.epoch = e.table.Epoch()
	}
	d := &Decision{template: e.template(pod), relations: make([]columns.Relation, len(e.related))}
	d.Refused = d.template.refused
	e.chosen = e.chosen[:0]
	for slot, status := range d.Refused {
		if status == nil {
			e.chosen = append(e.chosen, int32(slot)) //nolint:gosec // an index
		}
	}
	d.Feasible = e.chosen
	for i, r := range e.related {
		began := e.begin()
		relation, err := e.relation(i, pod)
		if err != nil {
			return nil, fmt.Errorf("relate pod with %s: %w", r.Name(), err)
		}
		d.relations[i] = relation
		if relation == nil || !r.filters {
			continue
		}
		e.own(d)
		relation.Refuse(d.Feasible, d.Refused)
		e.made(r.filtered, len(d.Feasible), began)
		e.narrow(d)
	}
	return d, nil
}

// ByCapacity says whether of what pods do to a node only its capacity matters to the pod, as far as the engine stands for the filters.
func (e *Engine) ByCapacity(d *Decision) bool {
	for i, relation := range d.relations {
		if relation != nil && e.related[i].filters {
			return false
		}
	}
	return !slices.ContainsFunc(d.template.filters, func(f filtering) bool {
		c, ok := f.Filter.(columns.ByCapacity)
		return !f.OfNode() && (!ok || !c.ByCapacity())
	})
}

// own makes the refusals a copy that may be written.
func (e *Engine) own(d *Decision) {
	if !d.owned {
		e.refused = append(e.refused[:0], d.template.refused...)
		d.Refused, d.owned = e.refused, true
	}
}

func (e *Engine) narrow(d *Decision) {
	d.Feasible = slices.DeleteFunc(d.Feasible, func(slot int32) bool { return d.Refused[slot] != nil })
}

// Refuse takes a further node out of a decision; Narrow must follow the last of them.
func (e *Engine) Refuse(d *Decision, slot int32, why *fwk.Status) {
	e.own(d)
	d.Refused[slot] = why
}

// Narrow brings the feasible nodes in line with the refusals.
func (e *Engine) Narrow(d *Decision) { e.narrow(d) }

// Score returns the scores of the feasible slots, by slot. What is the same for all of them is left out.
func (e *Engine) Score(d *Decision) []int64 {
	if missing := e.table.Len() - len(e.total); missing > 0 {
		e.total = append(e.total, make([]int64, missing)...)
	}
	for _, slot := range d.Feasible {
		e.total[slot] = d.template.fixed[slot]
	}
	for _, r := range d.template.scores {
		if r != nil && r.Scale() != columns.AsIs && !r.zero {
			r.add(d.Feasible, e.total)
		}
	}
	for i, relation := range d.relations {
		if relation != nil && e.related[i].weight > 0 {
			began := e.begin()
			relation.Score(d.Feasible, e.related[i].weight, e.total)
			e.made(e.related[i].rated, len(d.Feasible), began)
		}
	}
	return e.total
}
