package columns

// Part is what a node adds to the sum of one of its domains.
type Part struct {
	// Kind says which sum, by its index.
	Kind   int
	Domain int32
	N      int64
}

// Sums are numbers per kind and domain (the number of a label's value), each the sum of the parts of the nodes.
type Sums struct {
	parts [][]Part
	kinds []sum
}

type sum struct {
	n       []int64
	members []int32
	nonZero int
}

// Set replaces a node's parts.
func (s *Sums) Set(slot int32, parts []Part) {
	for len(s.parts) <= int(slot) {
		s.parts = append(s.parts, nil)
	}
	for _, p := range s.parts[slot] {
		s.add(p, -1)
	}
	for _, p := range parts {
		s.add(p, 1)
	}
	s.parts[slot] = append(s.parts[slot][:0], parts...)
}

func (s *Sums) add(p Part, sign int64) {
	for len(s.kinds) <= p.Kind {
		s.kinds = append(s.kinds, sum{})
	}
	k := &s.kinds[p.Kind]
	if missing := int(p.Domain) + 1 - len(k.n); missing > 0 {
		k.n = append(k.n, make([]int64, missing)...)
		k.members = append(k.members, make([]int32, missing)...)
	}
	before := k.n[p.Domain]
	k.n[p.Domain] += sign * p.N
	k.members[p.Domain] += int32(sign) //nolint:gosec // 1 or -1
	switch after := k.n[p.Domain]; {
	case before == 0 && after != 0:
		k.nonZero++
	case before != 0 && after == 0:
		k.nonZero--
	}
}

// Of returns the sum of one domain.
func (s *Sums) Of(kind int, domain int32) int64 {
	if kind >= len(s.kinds) || int(domain) >= len(s.kinds[kind].n) {
		return 0
	}
	return s.kinds[kind].n[domain]
}

// Zero says that all sums of a kind are 0.
func (s *Sums) Zero(kind int) bool { return kind >= len(s.kinds) || s.kinds[kind].nonZero == 0 }

// Kinds is one more than the highest kind that had a part.
func (s *Sums) Kinds() int { return len(s.kinds) }

// Lowest returns the number of domains of a kind that have a node, and their lowest sum.
func (s *Sums) Lowest(kind int) (domains int, lowest int64) {
	if kind >= len(s.kinds) {
		return 0, 0
	}
	k := &s.kinds[kind]
	for d, members := range k.members {
		if members == 0 {
			continue
		}
		if domains == 0 || k.n[d] < lowest {
			lowest = k.n[d]
		}
		domains++
	}
	return domains, lowest
}
