package apis

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestEveryRowIsItsOwnHub(t *testing.T) {
	scheme := NewScheme()
	seen := map[schema.GroupResource]bool{}
	for _, row := range All() {
		gvks, _, err := scheme.ObjectKinds(row.New())
		if err != nil {
			t.Errorf("%s: %v", row.Plural, err)
			continue
		}
		if gvks[0] != row.GroupVersionKind() {
			t.Errorf("%s: first kind is %v, want the external %v", row.Plural, gvks[0], row.GroupVersionKind())
		}
		for _, gv := range ServedVersions(row) {
			internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
			hub, err := scheme.ConvertToVersion(row.New(), internal)
			if err != nil {
				t.Errorf("%s to %v: %v", row.Plural, internal, err)
				continue
			}
			external, err := scheme.ConvertToVersion(hub, gv)
			if err != nil {
				t.Errorf("%s to %v: %v", row.Plural, gv, err)
				continue
			}
			if got := external.GetObjectKind().GroupVersionKind(); got != gv.WithKind(row.Kind) {
				t.Errorf("%s: converted to %v, want %v", row.Plural, got, gv.WithKind(row.Kind))
			}
			if _, _, err := scheme.ConvertFieldLabel(gv.WithKind(row.Kind), "metadata.name", "x"); err != nil {
				t.Errorf("%s: %v", row.Plural, err)
			}
			if _, _, err := scheme.ConvertFieldLabel(gv.WithKind(row.Kind), "no.such", "x"); err == nil {
				t.Errorf("%s: an unknown field label is accepted", row.Plural)
			}
		}
		if seen[row.GroupResource()] {
			t.Errorf("%v is listed twice", row.GroupResource())
		}
		seen[row.GroupResource()] = true
	}
}

func TestOpenAPISchemeIsExternal(t *testing.T) {
	for gvk := range NewOpenAPIScheme().AllKnownTypes() {
		// metav1 itself registers WatchEvent as internal in every group.
		if gvk.Version == runtime.APIVersionInternal && gvk.Kind != "WatchEvent" {
			t.Errorf("%v would be published", gvk)
		}
	}
}
