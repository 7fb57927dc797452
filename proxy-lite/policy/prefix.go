package policy

import (
	"cmp"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// block returns the prefixes that make up an ipBlock without its exceptions.
func block(b *networkingv1.IPBlock) []netip.Prefix {
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil
	}
	out := []netip.Prefix{cidr.Masked()}
	for _, text := range b.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return nil // rather allow nothing than too much
		}
		var rest []netip.Prefix
		for _, p := range out {
			rest = append(rest, subtract(p, except.Masked())...)
		}
		out = rest
	}
	return out
}

// subtract removes b from a by halving a until b is one of the halves.
func subtract(a, b netip.Prefix) []netip.Prefix {
	switch {
	case !a.Overlaps(b):
		return []netip.Prefix{a}
	case b.Bits() <= a.Bits():
		return nil
	}
	low, high := halves(a)
	return append(subtract(low, b), subtract(high, b)...)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 1 << (7 - p.Bits()%8)
	upper, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(upper, bits)
}

// disjoint sorts prefixes and leaves out those within another.
func disjoint(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range list {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
