package snapshot

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Change is one object that differs.
type Change struct {
	// Sign is + for an object that only the second state has, - for one that only the first has, and ~ for one that differs.
	Sign   string   `json:"sign"`
	Object string   `json:"object"` // apps/v1 Deployment default/web
	Fields []string `json:"fields,omitempty"`
}

// noise are the kinds that change all the time without anybody's doing.
var noise = map[string]bool{"Event": true, "Lease": true}

// beats are the fields of the same sort, and those that say only who wrote.
var beats = map[string]bool{"metadata.managedFields": true, "metadata.resourceVersion": true, "lastHeartbeatTime": true, "lastProbeTime": true}

// Diff tells what differs between two states, in the order of the objects' names. Values of Secrets are shown as checksums. With all,
// what changes all the time is told too.
func Diff(before, after map[string]*unstructured.Unstructured, all bool) []Change {
	var changes []Change
	add := func(sign string, object *unstructured.Unstructured, fields []string) {
		if all || !noise[object.GetKind()] {
			changes = append(changes, Change{Sign: sign, Object: nameOf(object), Fields: fields})
		}
	}
	for key, old := range before {
		now, still := after[key]
		if !still {
			add("-", old, nil)
			continue
		}
		d := differ{all: all, secret: old.GetKind() == "Secret"}
		d.compare("", old.Object, now.Object)
		if len(d.fields) > 0 {
			add("~", now, d.fields)
		}
	}
	for key, now := range after {
		if _, before := before[key]; !before {
			add("+", now, nil)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Sign, b.Sign)) })
	return changes
}

func nameOf(object *unstructured.Unstructured) string {
	name := object.GetName()
	if namespace := object.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return object.GetAPIVersion() + " " + object.GetKind() + " " + name
}

type differ struct {
	all, secret bool
	fields      []string
}

func (d *differ) compare(path string, before, after any) {
	if reflect.DeepEqual(before, after) || !d.all && (beats[path] || beats[path[strings.LastIndex(path, ".")+1:]]) {
		return
	}
	switch before := before.(type) {
	case map[string]any:
		if after, ok := after.(map[string]any); ok {
			names := maps.Clone(before)
			maps.Copy(names, after)
			for _, name := range slices.Sorted(maps.Keys(names)) {
				d.compare(strings.TrimPrefix(path+"."+name, "."), before[name], after[name])
			}
			return
		}
	case []any:
		if after, ok := after.([]any); ok && len(before) == len(after) {
			for i := range before {
				d.compare(fmt.Sprintf("%s[%d]", path, i), before[i], after[i])
			}
			return
		}
	}
	d.fields = append(d.fields, fmt.Sprintf("%s: %s → %s", path, d.show(path, before), d.show(path, after)))
}

func (d *differ) show(path string, value any) string {
	if value == nil {
		return "(none)"
	}
	text, err := json.Marshal(value)
	if err != nil { // what came out of JSON goes back into it
		text = fmt.Append(nil, value)
	}
	if d.secret && (strings.HasPrefix(path, "data") || strings.HasPrefix(path, "metadata.annotations")) {
		sum := sha256.Sum256(text)
		return fmt.Sprintf("sha256:%x", sum[:6])
	}
	return string(text)
}
