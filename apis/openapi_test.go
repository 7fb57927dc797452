package apis

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"keelson.dev/apis/generated/openapi"
)

// TestEveryKindIsInOpenAPI also builds what server-side apply merges with: a list without its keys would be replaced as a whole.
func TestEveryKindIsInOpenAPI(t *testing.T) {
	definitions := openapi.GetOpenAPIDefinitions(func(path string) spec.Ref {
		return spec.MustCreateRef("#/definitions/" + path)
	})
	scheme := NewOpenAPIScheme()
	schemas := map[string]*spec.Schema{}
	for name, definition := range definitions {
		schemas[name] = &definition.Schema
	}
	for _, row := range All() {
		for _, gv := range ServedVersions(row) {
			obj, err := scheme.New(gv.WithKind(row.Kind))
			if err != nil {
				t.Errorf("%v: %v", gv.WithKind(row.Kind), err)
				continue
			}
			name := obj.(interface{ OpenAPIModelName() string }).OpenAPIModelName()
			definition := schemas[name]
			if definition == nil {
				t.Errorf("no definition %s", name)
				continue
			}
			definition.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{
				"group": gv.Group, "version": gv.Version, "kind": row.Kind,
			}})
		}
	}
	converter, err := managedfields.NewTypeConverter(schemas, false)
	if err != nil {
		t.Fatalf("build the types of server-side apply: %v", err)
	}
	for _, row := range All() {
		obj := row.New()
		obj.GetObjectKind().SetGroupVersionKind(row.GroupVersionKind())
		if _, err := converter.ObjectToTyped(obj); err != nil {
			t.Errorf("%s: %v", row.Kind, err)
		}
	}
	ports := schemas["io.k8s.api.core.v1.ServiceSpec"].Properties["ports"]
	if got := ports.Extensions["x-kubernetes-list-type"]; got != "map" {
		t.Errorf("the ports of a Service merge as %v, want map", got)
	}
}
