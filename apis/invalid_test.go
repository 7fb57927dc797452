package apis

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"keelson.dev/apis/resource"
)

var update = flag.Bool("update", false, "write what validation says into testdata/invalid, for review")

// invalid is one file of testdata/invalid: a valid object, and changes to it (JSON merge patches) with what each must be told.
type invalid struct {
	Valid  map[string]any `json:"valid"`
	Create []change       `json:"create,omitempty"` // of the object before it is created
	Update []change       `json:"update,omitempty"` // of the stored object
	Status []change       `json:"status,omitempty"` // through /status
}

type change struct {
	Change map[string]any `json:"change"`
	Want   []string       `json:"want"`
}

// TestInvalid holds every kind's validation against tables of invalid objects. After a change of rules, run it with -update and
// review the difference.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	scheme := NewScheme()
	decoder := NewCodecs(scheme).UniversalDecoder()
	rows := map[schema.GroupVersionKind]*resource.Resource{}
	for _, row := range All() {
		rows[row.GroupVersionKind()] = row
	}
	covered := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			covered[checkFile(t, file, decoder, rows)] = true
		})
	}
	for _, row := range All() {
		if row.Validate != nil && !covered[row.GroupResource().String()] {
			t.Logf("no table for %s", row.GroupResource())
		}
	}
}

func checkFile(t *testing.T, file string, decoder runtime.Decoder, rows map[schema.GroupVersionKind]*resource.Resource) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var table invalid
	if err := yaml.UnmarshalStrict(data, &table); err != nil {
		t.Fatal(err)
	}
	decode := func(patch map[string]any) (resource.Object, *resource.Resource) {
		obj, gvk, err := decoder.Decode(merged(t, table.Valid, patch), nil, nil)
		if err != nil {
			t.Fatalf("decode: %v", err)
		}
		return obj.(resource.Object), rows[*gvk]
	}
	create := func(patch map[string]any) (resource.Object, field.ErrorList) {
		obj, row := decode(patch)
		if row.Prepare != nil {
			row.Prepare(obj, nil)
		}
		nameRule := apivalidation.NameIsDNSSubdomain
		if row.ValidateName != nil {
			nameRule = row.ValidateName
		}
		errs := apivalidation.ValidateObjectMetaAccessor(obj, row.Namespaced, nameRule, field.NewPath("metadata"))
		return obj, append(errs, row.Validate(obj)...)
	}
	stored, errs := create(nil)
	if len(errs) > 0 {
		t.Fatalf("the valid object is rejected: %v", errs.ToAggregate())
	}
	stored.SetCreationTimestamp(metav1.Now())
	_, row := decode(nil)
	for i := range table.Create {
		_, errs := create(table.Create[i].Change)
		check(t, &table.Create[i], errs)
	}
	for i := range table.Update {
		obj, _ := decode(table.Update[i].Change)
		old := stored.DeepCopyObject().(resource.Object)
		if row.Prepare != nil {
			row.Prepare(obj, old)
		}
		if row.ValidateUpdate != nil {
			check(t, &table.Update[i], row.ValidateUpdate(obj, old))
		} else {
			check(t, &table.Update[i], row.Validate(obj))
		}
	}
	for i := range table.Status {
		obj, _ := decode(table.Status[i].Change)
		old := stored.DeepCopyObject().(resource.Object)
		if row.PrepareStatus != nil {
			row.PrepareStatus(obj, old)
		}
		check(t, &table.Status[i], row.ValidateStatus(obj, old))
	}
	if *update {
		if data, err = yaml.Marshal(table); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return row.GroupResource().String()
}

func merged(t *testing.T, valid, patch map[string]any) []byte {
	t.Helper()
	object, err := json.Marshal(valid)
	if err != nil {
		t.Fatal(err)
	}
	if patch == nil {
		return object
	}
	data, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonpatch.MergePatch(object, data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func check(t *testing.T, c *change, errs field.ErrorList) {
	t.Helper()
	said := map[string]int{}
	for _, err := range errs {
		said[err.Error()]++
		if said[err.Error()] == 2 {
			t.Errorf("%v is told twice: %v", c.Change, err)
		}
	}
	got := slices.Sorted(maps.Keys(said))
	if len(got) == 0 {
		t.Errorf("%v is accepted", c.Change)
	}
	if *update {
		c.Want = got
		return
	}
	slices.Sort(c.Want)
	if diff := cmp.Diff(c.Want, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", c.Change, diff)
	}
}
