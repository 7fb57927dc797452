package nftables

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"

	"keelson.dev/proxy-lite/rules"
)

// Writer keeps one IP family of the kernel equal to the Services that it is given. It is not safe for concurrent use.
type Writer struct {
	store
	compiler
}

// New returns a writer for IPv4 or IPv6.
func New(v6 bool, cfg rules.Config) (*Writer, error) {
	nft, err := open(v6, Table)
	if err != nil {
		return nil, err
	}
	w := NewWith(nft, v6, cfg)
	w.direct = newDirect(v6, Table)
	return w, nil
}

func open(v6 bool, table string) (knftables.Interface, error) {
	family := knftables.IPv4Family
	if v6 {
		family = knftables.IPv6Family
	}
	nft, err := knftables.New(family, table)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return nft, nil
}

// NewWith returns a writer on the given interface.
func NewWith(nft knftables.Interface, v6 bool, cfg rules.Config) *Writer {
	w := &Writer{store: newStore(nft), compiler: compiler{v6: v6, cfg: cfg}}
	w.store.base, w.makeShared = w.compiler.base, w.addShared
	return w
}

// Family is the IP family that is written.
func (w *Writer) Family() corev1.IPFamily {
	if w.v6 {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// Update writes the Services that changed, in one transaction; one without entries is removed. The first call, and one after
// an error, writes everything: it replaces the table, whatever was in it.
func (w *Writer) Update(ctx context.Context, changed ...rules.Service) error {
	compiled := make(map[types.NamespacedName]objects, len(changed))
	for _, s := range changed {
		compiled[s.Name] = w.service(s)
	}
	return w.update(ctx, compiled)
}

// addShared makes the chain for n endpoints, with the slots that it needs.
func (w *Writer) addShared(tx *knftables.Transaction, s sharedChain) {
	for i := range s.n {
		w.addSlot(tx, slot(s.slots(), i))
	}
	tx.Add(&knftables.Chain{Name: s.name()})
	addRules(tx, s.name(), w.sharedRules(s))
}

// addSlot makes a slot's map and chain, once.
func (w *Writer) addSlot(tx *knftables.Transaction, name string) {
	if w.made[name] {
		return
	}
	w.made[name] = true
	tx.Add(&knftables.Map{Name: name, Type: fmt.Sprintf("%[1]s . inet_proto . inet_service : %[1]s . inet_service", w.addrType())})
	tx.Add(&knftables.Chain{Name: name})
	addRules(tx, name, w.slotRules(name))
}
