package columns

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Key builds the identity of a kind of pods. Equal keys mean equal pods, as far as they are written into it.
type Key struct{ b []byte }

// NewKey appends to b.
func NewKey(b []byte) *Key { return &Key{b} }

// Bytes returns the key.
func (k *Key) Bytes() []byte { return k.b }

// Int appends a number.
func (k *Key) Int(n int64) { k.b = binary.AppendVarint(k.b, n) }

// String appends a string.
func (k *Key) String(s string) {
	k.b = binary.AppendUvarint(k.b, uint64(len(s)))
	k.b = append(k.b, s...)
}

// Map appends a map, in the order of its keys.
func (k *Key) Map(m map[string]string) {
	k.Int(int64(len(m)))
	for _, key := range sortedKeys(m) {
		k.String(key)
		k.String(m[key])
	}
}

type marshaler interface{ Marshal() ([]byte, error) }

// Object appends an API object without maps. Objects that do not encode, of which there are none, never equal another.
func (k *Key) Object(m marshaler) {
	data, err := m.Marshal()
	if err != nil {
		data = []byte(err.Error())
	}
	k.String(string(data))
}

// Placement appends the pod's tolerations, node selector and node affinity.
func (k *Key) Placement(pod *corev1.Pod) {
	k.Int(int64(len(pod.Spec.Tolerations)))
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		for _, s := range []string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			k.String(s)
		}
	}
	k.Map(pod.Spec.NodeSelector)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		k.Object(a.NodeAffinity)
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}
