package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"

	"keelson.dev/proxy-lite/rules"
)

// Writer keeps one IP family of the kernel equal to the Services that it is given. It is not safe for concurrent use.
type Writer struct {
	nft knftables.Interface
	compiler

	services map[types.NamespacedName]objects
	active   map[element]claim
	waiting  map[element][]claim // of Services that claim an element which another one has
	shared   map[string]bool
	// stale is set while the kernel may differ from what the maps above say: before the first write and after a failed one.
	stale bool
}

type claim struct {
	owner types.NamespacedName
	value string
}

// New returns a writer for IPv4 or IPv6.
func New(v6 bool, cfg rules.Config) (*Writer, error) {
	family := knftables.IPv4Family
	if v6 {
		family = knftables.IPv6Family
	}
	nft, err := knftables.New(family, Table)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return NewWith(nft, v6, cfg), nil
}

// NewWith returns a writer on the given interface.
func NewWith(nft knftables.Interface, v6 bool, cfg rules.Config) *Writer {
	w := &Writer{nft: nft, compiler: compiler{v6: v6, cfg: cfg}, services: map[types.NamespacedName]objects{}}
	w.forget()
	return w
}

func (w *Writer) forget() {
	w.active, w.waiting, w.shared = map[element]claim{}, map[element][]claim{}, map[string]bool{}
	w.stale = true
}

// Update writes the Services that changed, in one transaction; one without entries is removed. The first call, and one after
// an error, writes everything: it replaces the table, whatever was in it.
func (w *Writer) Update(ctx context.Context, changed ...rules.Service) error {
	tx := w.nft.NewTransaction()
	if w.stale {
		for _, s := range changed {
			w.store(s.Name, w.service(s))
		}
		all := w.services
		w.services = map[types.NamespacedName]objects{}
		w.forget()
		w.base(tx)
		w.change(tx, all)
	} else {
		compiled := make(map[types.NamespacedName]objects, len(changed))
		for _, s := range changed {
			compiled[s.Name] = w.service(s)
		}
		w.change(tx, compiled)
	}
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := w.nft.Run(ctx, tx); err != nil {
		w.stale = true
		return fmt.Errorf("write nftables: %w", err)
	}
	w.stale = false
	return nil
}

func (w *Writer) store(name types.NamespacedName, o objects) {
	if len(o.elements) == 0 {
		delete(w.services, name)
		return
	}
	w.services[name] = o
}

// change appends the difference between the Services as they are and as they shall be.
func (w *Writer) change(tx *knftables.Transaction, wanted map[types.NamespacedName]objects) {
	d := diff{
		w: w, before: map[element]*string{}, oldChains: map[string][]string{}, newChains: map[string][]string{},
		oldSets: map[string]time.Duration{}, newSets: map[string]time.Duration{},
	}
	names := slices.SortedFunc(maps.Keys(wanted), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	for _, name := range names {
		d.service(name, w.services[name], wanted[name])
		w.store(name, wanted[name])
	}
	d.write(tx)
}

// diff collects what one transaction must do.
type diff struct {
	w *Writer
	// before holds the value that the kernel has for each element that was touched; nil if it has none.
	before               map[element]*string
	shared               []sharedChain
	oldChains, newChains map[string][]string
	oldSets, newSets     map[string]time.Duration
}

func (d *diff) service(owner types.NamespacedName, old, wanted objects) {
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
		if !d.w.shared[name] {
			d.w.shared[name] = true
			d.shared = append(d.shared, s)
		}
	}
	maps.Copy(d.oldChains, old.chains)
	maps.Copy(d.newChains, wanted.chains)
	maps.Copy(d.oldSets, old.affinity)
	maps.Copy(d.newSets, wanted.affinity)
}

// touch remembers what the kernel has for an element.
func (d *diff) touch(e element) {
	if _, ok := d.before[e]; ok {
		return
	}
	d.before[e] = nil
	if c, ok := d.w.active[e]; ok {
		d.before[e] = &c.value
	}
}

// claim gives the element to the Service, or lets it wait if another one has it: the same address may be an endpoint of many
// Services, and two Services may by mistake ask for the same external IP and port.
func (d *diff) claim(e element, c claim) {
	if _, taken := d.w.active[e]; taken {
		d.w.waiting[e] = append(d.w.waiting[e], c)
		return
	}
	d.touch(e)
	d.w.active[e] = c
}

func (d *diff) release(e element, owner types.NamespacedName) {
	waiting := d.w.waiting[e]
	if d.w.active[e].owner != owner {
		d.w.setWaiting(e, slices.DeleteFunc(waiting, func(c claim) bool { return c.owner == owner }))
		return
	}
	d.touch(e)
	if len(waiting) == 0 {
		delete(d.w.active, e)
		return
	}
	d.w.active[e] = waiting[0]
	d.w.setWaiting(e, waiting[1:])
}

func (w *Writer) setWaiting(e element, list []claim) {
	if len(list) == 0 {
		delete(w.waiting, e)
		return
	}
	w.waiting[e] = list
}

// write appends the operations in an order in which nothing is ever referred to before it exists or after it is gone.
func (d *diff) write(tx *knftables.Transaction) {
	for _, name := range added(d.oldSets, d.newSets) {
		timeout, size := d.newSets[name], uint64(affinitySize)
		tx.Add(&knftables.Set{
			Name: name, TypeOf: d.w.ip() + " saddr", Timeout: &timeout, Size: &size,
			Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag},
		})
	}
	chains := added(d.oldChains, d.newChains)
	for _, s := range d.shared {
		for i := range s.n {
			d.slot(tx, slot(s.slots(), i))
		}
		tx.Add(&knftables.Chain{Name: s.name()})
		addRules(tx, s.name(), d.w.sharedRules(s))
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

// slot makes a slot's map and chain, once.
func (d *diff) slot(tx *knftables.Transaction, name string) {
	if d.w.shared[name] {
		return
	}
	d.w.shared[name] = true
	addr := "ipv4_addr"
	if d.w.v6 {
		addr = "ipv6_addr"
	}
	tx.Add(&knftables.Map{Name: name, Type: fmt.Sprintf("%[1]s . inet_proto . inet_service : %[1]s . inet_service", addr)})
	tx.Add(&knftables.Chain{Name: name})
	addRules(tx, name, d.w.slotRules(name))
}

func (d *diff) writeElements(tx *knftables.Transaction) {
	touched := slices.SortedFunc(maps.Keys(d.before), func(a, b element) int {
		if a.set != b.set {
			return strings.Compare(a.set, b.set)
		}
		return strings.Compare(a.key, b.key)
	})
	var add []element
	for _, e := range touched {
		was := d.before[e]
		now, wanted := d.w.active[e]
		if wanted && was != nil && *was == now.value {
			continue
		}
		if was != nil {
			tx.Delete(knftElement(e, *was))
		}
		if wanted {
			add = append(add, e)
		}
	}
	for _, e := range add {
		tx.Add(knftElement(e, d.w.active[e].value))
	}
}

func knftElement(e element, value string) *knftables.Element {
	out := &knftables.Element{Key: []string{e.key}}
	if isMap(e.set) {
		out.Map, out.Value = e.set, []string{value}
	} else {
		out.Set = e.set
	}
	return out
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
