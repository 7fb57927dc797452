package interpodaffinity

import (
	"math"

	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
	"keelson.dev/scheduler/nodeinfo"
)

// RelationKey implements columns.Relational. Without terms on either side there is nothing to do.
func (p *Plugin) RelationKey(t *columns.Table, key []byte, info fwk.PodInfo) ([]byte, bool, error) {
	pod := info.GetPod()
	a := pod.Spec.Affinity
	own := a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil)
	if !own && t.WithTerms == 0 {
		return key, false, nil
	}
	k := columns.NewKey(key)
	k.String(pod.Namespace)
	k.Map(pod.Labels)
	k.Int(p.changes.Load())
	if own && a.PodAffinity != nil {
		k.Object(a.PodAffinity)
	}
	k.Int(0)
	if own && a.PodAntiAffinity != nil {
		k.Object(a.PodAntiAffinity)
	}
	return k.Bytes(), true, nil
}

// relation counts pods per domain for pods with the same labels and terms.
type relation struct {
	plugin *Plugin
	table  *columns.Table
	filterState
	prefersNear, prefersAway []fwk.WeightedAffinityTerm

	// anti and worth have a kind per topology key, nearBy and awayFrom one per term.
	anti, worth            byKey
	nearBy, awayFrom       columns.Sums
	nearLabels, awayLabels []*columns.Labels
	notNear, tooNear, kept *fwk.Status
	raw                    []int64
}

// byKey are sums per topology key.
type byKey struct {
	columns.Sums
	keys   map[string]int
	labels []*columns.Labels
	parts  []columns.Part
}

func (b *byKey) add(t *columns.Table, slot int32, key string, n int64) {
	kind, ok := b.keys[key]
	if !ok {
		kind = len(b.labels)
		b.keys[key] = kind
		b.labels = append(b.labels, t.Label(key))
	}
	domain := b.labels[kind].IDs[slot]
	if domain == 0 {
		return
	}
	for i := range b.parts {
		if b.parts[i].Kind == kind {
			b.parts[i].N += n
			return
		}
	}
	b.parts = append(b.parts, columns.Part{Kind: kind, Domain: domain, N: n})
}

// Relate implements columns.Relational.
func (p *Plugin) Relate(t *columns.Table, pod fwk.PodInfo) (columns.Relation, error) {
	info, err := nodeinfo.NewPodInfo(pod.GetPod())
	if err != nil {
		return nil, err
	}
	r := &relation{
		plugin: p, table: t, anti: byKey{keys: map[string]int{}}, worth: byKey{keys: map[string]int{}},
		notNear: fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasonAffinity).WithPlugin(Name),
		tooNear: fwk.NewStatus(fwk.Unschedulable, reasonAntiAffinity).WithPlugin(Name),
		kept:    fwk.NewStatus(fwk.Unschedulable, reasonExisting).WithPlugin(Name),
	}
	r.pod, r.nsLabels = info, p.namespaceLabels(pod.GetPod().Namespace)
	if r.affinity, err = p.resolve(info.GetRequiredAffinityTerms()); err != nil {
		return nil, err
	}
	if r.filterState.anti, err = p.resolve(info.GetRequiredAntiAffinityTerms()); err != nil {
		return nil, err
	}
	if r.prefersNear, err = p.resolveWeighted(info.GetPreferredAffinityTerms()); err != nil {
		return nil, err
	}
	if r.prefersAway, err = p.resolveWeighted(info.GetPreferredAntiAffinityTerms()); err != nil {
		return nil, err
	}
	for _, term := range r.affinity {
		r.nearLabels = append(r.nearLabels, t.Label(term.TopologyKey))
	}
	for _, term := range r.filterState.anti {
		r.awayLabels = append(r.awayLabels, t.Label(term.TopologyKey))
	}
	return r, nil
}

// Sync implements columns.Relation.
func (r *relation) Sync(slots []int32) {
	for _, slot := range slots {
		r.anti.parts, r.worth.parts = r.anti.parts[:0], r.worth.parts[:0]
		var near, away []columns.Part
		if n := r.table.Nodes[slot]; n != nil {
			for _, other := range n.GetPodsWithRequiredAntiAffinity() {
				for _, term := range other.GetRequiredAntiAffinityTerms() {
					if term.Matches(r.pod.GetPod(), r.nsLabels) {
						r.anti.add(r.table, slot, term.TopologyKey, 1)
					}
				}
			}
			near, away = r.own(slot, n)
			r.weigh(slot, n)
		}
		r.anti.Set(slot, r.anti.parts)
		r.worth.Set(slot, r.worth.parts)
		r.nearBy.Set(slot, near)
		r.awayFrom.Set(slot, away)
	}
}

// own counts the pods of a node for the incoming pod's own terms.
func (r *relation) own(slot int32, n *nodeinfo.NodeInfo) (near, away []columns.Part) {
	terms := r.filterState.anti
	if len(r.affinity)+len(terms) == 0 {
		return nil, nil
	}
	var all int64
	per := make([]int64, len(terms))
	for _, other := range n.GetPods() {
		if len(r.affinity) > 0 && matchesAll(r.affinity, other.GetPod()) {
			all++
		}
		for i := range terms {
			if terms[i].Matches(other.GetPod(), nil) {
				per[i]++
			}
		}
	}
	for i, column := range r.nearLabels {
		if domain := column.IDs[slot]; domain != 0 && all > 0 {
			near = append(near, columns.Part{Kind: i, Domain: domain, N: all})
		}
	}
	for i, column := range r.awayLabels {
		if domain := column.IDs[slot]; domain != 0 && per[i] > 0 {
			away = append(away, columns.Part{Kind: i, Domain: domain, N: per[i]})
		}
	}
	return near, away
}

// weigh sums what the pods of a node are worth for the incoming one's score.
func (r *relation) weigh(slot int32, n *nodeinfo.NodeInfo) {
	pods := n.GetPodsWithAffinity()
	if len(r.prefersNear)+len(r.prefersAway) > 0 {
		pods = n.GetPods()
	} else if r.plugin.ignorePreferred {
		return
	}
	into := func(key string, weight int64) { r.worth.add(r.table, slot, key, weight) }
	for _, other := range pods {
		r.plugin.weigh(into, r.pod.GetPod(), r.nsLabels, r.prefersNear, r.prefersAway, other)
	}
}

// Refuse implements columns.Relation.
func (r *relation) Refuse(slots []int32, refused []*fwk.Status) {
	first := true // of its kind: no pod is near which it could be, and it would do itself
	for i := range r.affinity {
		first = first && r.nearBy.Zero(i)
	}
	first = first && matchesAll(r.affinity, r.pod.GetPod())
	for _, slot := range slots {
		if refused[slot] == nil {
			refused[slot] = r.refusal(slot, first)
		}
	}
}

func (r *relation) refusal(slot int32, first bool) *fwk.Status {
	met := true
	for i, column := range r.nearLabels {
		domain := column.IDs[slot]
		if domain == 0 {
			return r.notNear
		}
		met = met && r.nearBy.Of(i, domain) > 0
	}
	if !met && !first {
		return r.notNear
	}
	for i, column := range r.awayLabels {
		if domain := column.IDs[slot]; domain != 0 && r.awayFrom.Of(i, domain) > 0 {
			return r.tooNear
		}
	}
	for kind, column := range r.anti.labels {
		if domain := column.IDs[slot]; domain != 0 && r.anti.Of(kind, domain) > 0 {
			return r.kept
		}
	}
	return nil
}

// Score implements columns.Relation.
func (r *relation) Score(feasible []int32, weight int64, total []int64) {
	if missing := r.table.Len() - len(r.raw); missing > 0 {
		r.raw = append(r.raw, make([]int64, missing)...)
	}
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, slot := range feasible {
		r.raw[slot] = 0
		for kind, column := range r.worth.labels {
			if domain := column.IDs[slot]; domain != 0 {
				r.raw[slot] += r.worth.Of(kind, domain)
			}
		}
		lowest, highest = min(lowest, r.raw[slot]), max(highest, r.raw[slot])
	}
	spread := highest - lowest
	if spread <= 0 {
		return
	}
	for _, slot := range feasible {
		total[slot] += weight * int64(float64(fwk.MaxScore)*float64(r.raw[slot]-lowest)/float64(spread))
	}
}
