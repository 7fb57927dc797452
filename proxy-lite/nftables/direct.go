package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// direct writes elements of sets and maps into the kernel by netlink. Most changes are nothing else, and the nft program needs many times
// as long to start and to read what there is.
type direct struct{ table *nftables.Table }

func newDirect(v6 bool, table string) *direct {
	family := nftables.TableFamilyIPv4
	if v6 {
		family = nftables.TableFamilyIPv6
	}
	return &direct{&nftables.Table{Name: table, Family: family}}
}

// mostElements of one set fit into a netlink attribute of 64 KiB, with room to spare; beyond that nft is as quick.
const mostElements = 300

// quickly writes a difference that is of elements only. It reports whether it was one, and has been written.
func (s *store) quickly(d diff, whole bool) (bool, error) {
	if whole || s.direct == nil || len(d.shared) > 0 ||
		len(added(d.oldSets, d.newSets))+len(added(d.newSets, d.oldSets))+len(added(d.oldChains, d.newChains))+len(added(d.newChains, d.oldChains)) > 0 {
		return false, nil
	}
	gone, fresh := d.elements()
	if len(gone)+len(fresh) == 0 {
		return true, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netlink: %w", err)
	}
	for _, step := range []struct {
		elements []element
		value    func(element) string
		send     func(*nftables.Set, []nftables.SetElement) error
	}{
		{gone, func(element) string { return "" }, conn.SetDeleteElements},
		{fresh, func(e element) string { return s.active[e].value }, conn.SetAddElements},
	} {
		for list := range bySet(step.elements) {
			encoded := make([]nftables.SetElement, len(list))
			for i, e := range list {
				var ok bool
				if encoded[i], ok = encode(e.key, step.value(e)); !ok || len(list) > mostElements {
					return false, nil
				}
			}
			if err := step.send(&nftables.Set{Table: s.direct.table, Name: list[0].set}, encoded); err != nil {
				return false, fmt.Errorf("encode elements: %w", err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("write nftables: %w", err)
	}
	return true, nil
}

// bySet yields the parts of a list, sorted by set, that are of one set.
func bySet(list []element) func(yield func([]element) bool) {
	return func(yield func([]element) bool) {
		for len(list) > 0 {
			n := slices.IndexFunc(list, func(e element) bool { return e.set != list[0].set })
			if n < 0 {
				n = len(list)
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}

// encode turns an element as nft spells it into the kernel's form; not ok are prefixes, and what is spelled otherwise.
func encode(key, value string) (e nftables.SetElement, ok bool) {
	if e.Key, ok = registers(key); !ok {
		return e, false
	}
	verdict, chain, _ := strings.Cut(value, " ")
	switch verdict {
	case "":
	case "drop":
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictDrop}
	case "goto":
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
	case "jump":
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
	default:
		e.Val, ok = registers(value)
	}
	return e, ok
}

// registers lays out concatenated values: each begins at a multiple of four bytes.
func registers(text string) ([]byte, bool) {
	protocols := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}
	var out []byte
	for part := range strings.SplitSeq(text, " . ") {
		if protocol, ok := protocols[part]; ok {
			out = append(out, protocol, 0, 0, 0)
		} else if port, err := strconv.ParseUint(part, 10, 16); err == nil {
			out = append(binary.BigEndian.AppendUint16(out, uint16(port)), 0, 0)
		} else if addr, err := netip.ParseAddr(part); err == nil {
			out = append(out, addr.AsSlice()...)
		} else {
			return nil, false
		}
	}
	return out, true
}
