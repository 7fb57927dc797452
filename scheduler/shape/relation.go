package shape

import (
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/columns"
)

// followed is a relation and how far in the table's journal it has come.
type followed struct {
	columns.Relation
	at uint64
}

// relation returns the counts of one relational plugin for the pod, up to date; nil if it has nothing to do.
func (e *Engine) relation(i int, pod fwk.PodInfo) (columns.Relation, error) {
	key, ok, err := e.related[i].RelationKey(e.table, append(e.key[:0], byte(i)), pod)
	e.key = key
	if err != nil || !ok {
		return nil, err
	}
	f, known := e.relations.get(key)
	if !known {
		relation, err := e.related[i].Relate(e.table, pod)
		if err != nil {
			return nil, err
		}
		f = &followed{Relation: relation}
		e.relations.put(key, f)
	}
	changed, _, ok := e.table.Since(f.at)
	if !known || !ok {
		changed = e.table.All()
	}
	f.Sync(changed)
	f.at = e.table.Now()
	return f.Relation, nil
}

// recent is a map that forgets what has not been used for longest.
type recent[T any] struct {
	limit int
	clock uint64
	items map[string]*entry[T]
}

type entry[T any] struct {
	value T
	used  uint64
}

func newRecent[T any](limit int) *recent[T] {
	return &recent[T]{limit: limit, items: map[string]*entry[T]{}}
}

func (r *recent[T]) get(key []byte) (T, bool) {
	item, ok := r.items[string(key)]
	if !ok {
		var zero T
		return zero, false
	}
	r.clock++
	item.used = r.clock
	return item.value, true
}

func (r *recent[T]) put(key []byte, value T) {
	if len(r.items) >= r.limit {
		var oldest string
		least := r.clock + 1
		for k, item := range r.items {
			if item.used < least {
				oldest, least = k, item.used
			}
		}
		delete(r.items, oldest)
	}
	r.clock++
	r.items[string(key)] = &entry[T]{value, r.clock}
}

func (r *recent[T]) clear() { clear(r.items) }
