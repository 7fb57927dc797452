package podtopologyspread

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
)

// RelationKey implements columns.Relational. Pods with the same constraints, which they match or not alike, are counted for once.
func (p *Plugin) RelationKey(_ *columns.Table, key []byte, info fwk.PodInfo) ([]byte, bool, error) {
	pod := info.GetPod()
	hard, _, err := p.constraints(pod, corev1.DoNotSchedule)
	if err != nil {
		return key, false, err
	}
	soft, _, err := p.constraints(pod, corev1.ScheduleAnyway)
	if err != nil || len(hard)+len(soft) == 0 {
		return key, false, err
	}
	k := columns.NewKey(key)
	k.String(pod.Namespace)
	k.Placement(pod)
	k.Int(int64(len(pod.Spec.TopologySpreadConstraints)))
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		k.Object(c)
		for _, label := range c.MatchLabelKeys {
			value, ok := pod.Labels[label]
			k.String(value)
			k.Int(flag(ok))
		}
	}
	for _, c := range hard {
		k.Int(flag(c.matches(pod)))
	}
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		c := append(hard, soft...)[0]
		k.String(string(c.owner))
		k.String(c.selector.String())
	}
	return k.Bytes(), true, nil
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// relation counts the pods per domain for the constraints of like pods.
type relation struct {
	table      *columns.Table
	pod        *corev1.Pod
	affinity   nodeaffinity.RequiredNodeAffinity
	hard, soft []constraint
	// needAll leaves nodes out that do not have the labels of all soft constraints.
	needAll bool
	// labels are the columns of the constraints, the hard ones first.
	labels []*columns.Labels
	// alike is, for each constraint, the first that counts the same pods.
	alike []int

	hardCounts, softCounts columns.Sums
	onHost                 [][]int64 // per soft constraint over hosts, the node's own count

	noLabel, skewed *fwk.Status
	raw             []int64
}

// Relate implements columns.Relational.
func (p *Plugin) Relate(t *columns.Table, info fwk.PodInfo) (columns.Relation, error) {
	pod := info.GetPod()
	hard, _, err := p.constraints(pod, corev1.DoNotSchedule)
	if err != nil {
		return nil, err
	}
	soft, defaulted, err := p.constraints(pod, corev1.ScheduleAnyway)
	if err != nil {
		return nil, err
	}
	r := &relation{
		table: t, pod: pod, affinity: nodeaffinity.GetRequiredNodeAffinity(pod), hard: hard, soft: soft, needAll: !defaulted || !p.system,
		onHost:  make([][]int64, len(soft)),
		noLabel: fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasonLabel).WithPlugin(Name),
		skewed:  fwk.NewStatus(fwk.Unschedulable, reasonSkew).WithPlugin(Name),
	}
	all := append(append([]constraint{}, hard...), soft...)
	for i, c := range all {
		r.labels = append(r.labels, t.Label(c.key))
		first := 0
		for all[first].owner != c.owner || all[first].selector.String() != c.selector.String() {
			first++
		}
		r.alike = append(r.alike, min(first, i))
	}
	return r, nil
}

// Sync implements columns.Relation.
func (r *relation) Sync(slots []int32) {
	counts := make([]int64, len(r.alike))
	var hard, soft []columns.Part
	for _, slot := range slots {
		hard, soft = hard[:0], soft[:0]
		if n := r.table.Nodes[slot]; n != nil {
			for i, first := range r.alike {
				if first < i {
					counts[i] = counts[first]
					continue
				}
				counts[i] = int64(countOn(n, r.constraint(i), r.pod))
			}
			hard = r.parts(hard, r.hard, 0, slot, counts, true)
			soft = r.parts(soft, r.soft, len(r.hard), slot, counts, r.needAll)
			r.countHost(slot, counts[len(r.hard):])
		}
		r.hardCounts.Set(slot, hard)
		r.softCounts.Set(slot, soft)
	}
}

func (r *relation) constraint(i int) constraint {
	if i < len(r.hard) {
		return r.hard[i]
	}
	return r.soft[i-len(r.hard)]
}

// parts lists what a node adds to the counts of its domains: also nothing makes a domain known.
func (r *relation) parts(out []columns.Part, list []constraint, offset int, slot int32, counts []int64, needAll bool) []columns.Part {
	node := r.table.Nodes[slot].Node()
	if needAll && !hasKeys(node, list) {
		return out
	}
	for i, c := range list {
		if domain := r.labels[offset+i].IDs[slot]; domain != 0 && c.includes(r.pod, node, r.affinity) {
			out = append(out, columns.Part{Kind: i, Domain: domain, N: counts[offset+i]})
		}
	}
	return out
}

func (r *relation) countHost(slot int32, counts []int64) {
	for i, c := range r.soft {
		if c.key != corev1.LabelHostname {
			continue
		}
		if missing := r.table.Len() - len(r.onHost[i]); missing > 0 {
			r.onHost[i] = append(r.onHost[i], make([]int64, missing)...)
		}
		r.onHost[i][slot] = counts[i]
	}
}

// Refuse implements columns.Relation.
func (r *relation) Refuse(slots []int32, refused []*fwk.Status) {
	for i, c := range r.hard {
		domains, lowest := r.hardCounts.Lowest(i)
		if domains < c.minDomains {
			lowest = 0 // the missing domains have none
		}
		most := int64(c.maxSkew) + lowest - flag(c.matches(r.pod))
		ids := r.labels[i].IDs
		for _, slot := range slots {
			switch {
			case refused[slot] != nil:
			case ids[slot] == 0:
				refused[slot] = r.noLabel
			case r.hardCounts.Of(i, ids[slot]) > most:
				refused[slot] = r.skewed
			}
		}
	}
}

// ignored is the raw score of a node that lacks a label.
const ignored = -1

// Score implements columns.Relation.
func (r *relation) Score(feasible []int32, weight int64, total []int64) {
	if len(r.soft) == 0 {
		return
	}
	if missing := r.table.Len() - len(r.raw); missing > 0 {
		r.raw = append(r.raw, make([]int64, missing)...)
	}
	labels := r.labels[len(r.hard):]
	counted := 0
	for _, slot := range feasible {
		r.raw[slot] = 0
		for _, column := range labels {
			if r.needAll && column.IDs[slot] == 0 {
				r.raw[slot] = ignored
			}
		}
		if r.raw[slot] != ignored {
			counted++
		}
	}
	weights := r.weights(feasible, counted)
	lowest, highest := int64(invalid), int64(0)
	for _, slot := range feasible {
		if r.raw[slot] == ignored {
			continue
		}
		var score float64
		for i, c := range r.soft {
			domain := labels[i].IDs[slot]
			if domain == 0 {
				continue
			}
			count := r.softCounts.Of(i, domain)
			if c.key == corev1.LabelHostname {
				count = r.onHost[i][slot]
			}
			score += float64(count)*weights[i] + float64(c.maxSkew-1)
		}
		r.raw[slot] = int64(math.Round(score))
		lowest, highest = min(lowest, r.raw[slot]), max(highest, r.raw[slot])
	}
	for _, slot := range feasible {
		switch {
		case r.raw[slot] == ignored:
		case highest == 0:
			total[slot] += weight * fwk.MaxScore
		default:
			total[slot] += weight * (fwk.MaxScore * (highest + lowest - r.raw[slot]) / highest)
		}
	}
}

// weights are those of scoreState.domains.
func (r *relation) weights(feasible []int32, counted int) []float64 {
	out := make([]float64, len(r.soft))
	for i, c := range r.soft {
		size := counted
		if c.key != corev1.LabelHostname {
			column := r.labels[len(r.hard)+i]
			seen := make([]bool, column.Count())
			size = 0
			for _, slot := range feasible {
				if id := column.IDs[slot]; id != 0 && r.raw[slot] != ignored && !seen[id] {
					seen[id] = true
					size++
				}
			}
		}
		out[i] = math.Log(float64(size + 2))
	}
	return out
}
