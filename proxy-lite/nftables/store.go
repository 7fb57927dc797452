package nftables

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// store keeps one table of the kernel equal to the objects that its owners need. It is not safe for concurrent use.
type store struct {
	nft knftables.Interface
	// direct writes elements without the nft program; nil: there is none.
	direct *direct
	// base fills an empty table with its fixed parts; makeShared adds the chains that owners have in common.
	base       func(*knftables.Transaction)
	makeShared func(*knftables.Transaction, sharedChain)

	owners  map[types.NamespacedName]objects
	active  map[element]claim
	waiting map[element][]claim // of owners that claim an element which another one has
	made    map[string]bool     // shared chains and slots
	// stale is set while the kernel may differ from what the maps above say: before the first write and after a failed one.
	stale bool
	// inherited is set once the table that an earlier process has left was looked at.
	inherited bool
}

type claim struct {
	owner types.NamespacedName
	value string
}

func newStore(nft knftables.Interface) store {
	s := store{nft: nft, owners: map[types.NamespacedName]objects{}}
	s.forget()
	return s
}

func (s *store) forget() {
	s.active, s.waiting, s.made = map[element]claim{}, map[element][]claim{}, map[string]bool{}
	s.stale = true
}

// update writes the owners whose objects changed, in one transaction; one without elements is removed. The first call, and one
// after an error, writes everything: it replaces the table, whatever was in it, but for what packets have put there.
func (s *store) update(ctx context.Context, changed map[types.NamespacedName]objects) error {
	tx := s.nft.NewTransaction()
	whole := s.stale
	if whole {
		for name, o := range changed {
			s.keep(name, o)
		}
		changed = s.owners
		s.owners = map[types.NamespacedName]objects{}
		s.forget()
		s.replace(ctx, tx, changed)
		s.base(tx)
	}
	d := s.change(changed)
	s.stale = true // until the kernel has it
	if quick, err := s.quickly(d, whole); quick || err != nil {
		s.stale = err != nil
		return err
	}
	d.write(tx)
	if tx.NumOperations() > 0 {
		if err := s.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("write nftables: %w", err)
		}
	}
	s.stale = false
	return nil
}

// replace empties the table. Sets that packets fill, which are session affinities, stay the first time, if the owners want them still:
// the process that made them was one like this. Should the kernel refuse that, the next transaction makes all anew.
func (s *store) replace(ctx context.Context, tx *knftables.Transaction, wanted map[types.NamespacedName]objects) {
	filled := map[string]bool{}
	for _, o := range wanted {
		for name, set := range o.sets {
			if slices.Contains(set.Flags, knftables.DynamicFlag) {
				filled[name] = true
			}
		}
	}
	var there map[string][]string
	if len(filled) > 0 && !s.inherited {
		there, _ = s.nft.ListAll(ctx) // without a table there is nothing to keep
	}
	s.inherited = true
	if !slices.ContainsFunc(there["set"], func(name string) bool { return filled[name] }) {
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		tx.Add(&knftables.Table{})
		return
	}
	for _, name := range there["chain"] {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range there["map"] {
		tx.Flush(&knftables.Map{Name: name}) // its elements name chains
	}
	for _, name := range there["chain"] {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range there["map"] {
		tx.Delete(&knftables.Map{Name: name})
	}
	for _, name := range there["set"] {
		if !filled[name] {
			tx.Delete(&knftables.Set{Name: name})
		}
	}
}

func (s *store) keep(name types.NamespacedName, o objects) {
	if len(o.elements) == 0 {
		delete(s.owners, name)
		return
	}
	s.owners[name] = o
}

// change takes over what the owners shall be, and returns the difference to what they were.
func (s *store) change(wanted map[types.NamespacedName]objects) diff {
	d := diff{
		s: s, before: map[element]*string{}, oldChains: map[string][]string{}, newChains: map[string][]string{},
		oldSets: map[string]*knftables.Set{}, newSets: map[string]*knftables.Set{},
	}
	names := slices.SortedFunc(maps.Keys(wanted), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	for _, name := range names {
		d.owner(name, s.owners[name], wanted[name])
		s.keep(name, wanted[name])
	}
	return d
}

// diff collects what one transaction must do.
type diff struct {
	s *store
	// before holds the value that the kernel has for each element that was touched; nil if it has none.
	before               map[element]*string
	shared               []sharedChain
	oldChains, newChains map[string][]string
	oldSets, newSets     map[string]*knftables.Set
}

func (d *diff) owner(owner types.NamespacedName, old, wanted objects) {
	for e := range old.elements {
		if _, ok := wanted.elements[e]; !ok {
			d.release(e, owner)
		}
	}
	for e, value := range wanted.elements {
		if was, ok := old.elements[e]; ok {
			if was == value {
				continue
			}
			d.release(e, owner)
		}
		d.claim(e, claim{owner, value})
	}
	for name, s := range wanted.shared {
		if !d.s.made[name] {
			d.s.made[name] = true
			d.shared = append(d.shared, s)
		}
	}
	maps.Copy(d.oldChains, old.chains)
	maps.Copy(d.newChains, wanted.chains)
	maps.Copy(d.oldSets, old.sets)
	maps.Copy(d.newSets, wanted.sets)
}

// touch remembers what the kernel has for an element.
func (d *diff) touch(e element) {
	if _, ok := d.before[e]; ok {
		return
	}
	d.before[e] = nil
	if c, ok := d.s.active[e]; ok {
		d.before[e] = &c.value
	}
}

// claim gives the element to the owner, or lets it wait if another one has it: the same address may be an endpoint of many
// Services, and two Services may by mistake ask for the same external IP and port.
func (d *diff) claim(e element, c claim) {
	if _, taken := d.s.active[e]; taken {
		d.s.waiting[e] = append(d.s.waiting[e], c)
		return
	}
	d.touch(e)
	d.s.active[e] = c
}

func (d *diff) release(e element, owner types.NamespacedName) {
	waiting := d.s.waiting[e]
	if d.s.active[e].owner != owner {
		d.s.setWaiting(e, slices.DeleteFunc(waiting, func(c claim) bool { return c.owner == owner }))
		return
	}
	d.touch(e)
	if len(waiting) == 0 {
		delete(d.s.active, e)
		return
	}
	d.s.active[e] = waiting[0]
	d.s.setWaiting(e, waiting[1:])
}

func (s *store) setWaiting(e element, list []claim) {
	if len(list) == 0 {
		delete(s.waiting, e)
		return
	}
	s.waiting[e] = list
}

// write appends the operations in an order in which nothing is ever referred to before it exists or after it is gone.
func (d *diff) write(tx *knftables.Transaction) {
	for _, name := range added(d.oldSets, d.newSets) {
		tx.Add(d.newSets[name])
	}
	chains := added(d.oldChains, d.newChains)
	for _, s := range d.shared {
		d.s.makeShared(tx, s)
	}
	for _, name := range chains {
		tx.Add(&knftables.Chain{Name: name})
	}
	for _, name := range chains {
		addRules(tx, name, d.newChains[name])
	}
	d.writeElements(tx)
	gone := added(d.newChains, d.oldChains)
	for _, name := range gone {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range gone {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range added(d.newSets, d.oldSets) {
		tx.Delete(&knftables.Set{Name: name})
	}
}

func (d *diff) writeElements(tx *knftables.Transaction) {
	gone, added := d.elements()
	for _, e := range gone {
		tx.Delete(knftElement(e, *d.before[e]))
	}
	for _, e := range added {
		tx.Add(knftElement(e, d.s.active[e].value))
	}
}

// elements are those to remove, which come first, and those to add. One whose value changes is in both.
func (d *diff) elements() (gone, added []element) {
	touched := slices.SortedFunc(maps.Keys(d.before), func(a, b element) int {
		return cmp.Or(strings.Compare(a.set, b.set), strings.Compare(a.key, b.key))
	})
	for _, e := range touched {
		was := d.before[e]
		now, wanted := d.s.active[e]
		if wanted && was != nil && *was == now.value {
			continue
		}
		if was != nil {
			gone = append(gone, e)
		}
		if wanted {
			added = append(added, e)
		}
	}
	return gone, added
}

func knftElement(e element, value string) *knftables.Element {
	if value == "" {
		return &knftables.Element{Set: e.set, Key: []string{e.key}}
	}
	return &knftables.Element{Map: e.set, Key: []string{e.key}, Value: []string{value}}
}

func addRules(tx *knftables.Transaction, chain string, list []string) {
	for _, rule := range list {
		tx.Add(&knftables.Rule{Chain: chain, Rule: rule})
	}
}

// added returns the sorted names that are in wanted and not in old. A chain's name is a hash of what is in it, so that chains are
// made and removed and never changed.
func added[V any](old, wanted map[string]V) []string {
	var out []string
	for name := range wanted {
		if _, ok := old[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
