// Package podtemplate names and compares pod templates, so that controllers with revisions agree with upstream on the names that
// they derive from a template.
package podtemplate

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// Hash returns the hash of a template that stands in the label pod-template-hash and in the name of its ReplicaSet. collisions
// makes a new hash after a collision.
func Hash(template *corev1.PodTemplateSpec, collisions *int32) string {
	return HashOf(*template, collisions)
}

// HashOf returns the hash of any value as Hash does.
func HashOf(value any, collisions *int32) string {
	h := fnv.New32a()
	h.Write(fmt.Appendf(nil, "%v", dump.ForHash(value)))
	if collisions != nil {
		salt := make([]byte, 8) // upstream writes eight bytes, of which the number fills four
		binary.LittleEndian.PutUint32(salt, uint32(*collisions))
		h.Write(salt)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// EqualWithout reports whether two templates are equal but for one label.
func EqualWithout(label string, a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, label)
	delete(b.Labels, label)
	return equality.Semantic.DeepEqual(a, b)
}
