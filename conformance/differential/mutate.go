package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// mutation is one change of an object, as one operation of a JSON patch.
type mutation struct {
	Op    string `json:"op"` // add, remove or replace
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
	null  bool   // the value is null
}

func (m mutation) String() string {
	if m.Op == "remove" {
		return "remove " + m.Path
	}
	return fmt.Sprintf("%s %s %s", m.Op, m.Path, brief([]byte(jsonOf(m.Value))))
}

// patch is the JSON patch of the mutation.
func (m mutation) patch() []byte {
	if m.null {
		return fmt.Appendf(nil, `[{"op":%q,"path":%q,"value":null}]`, m.Op, m.Path)
	}
	return []byte(jsonOf([]mutation{m}))
}

// mutator walks an object beside its schema and lists what is tried with each place.
type mutator struct {
	schemas schemas
	out     []mutation
}

// mutations lists every change that is tried with an object. Places below skip are left out; only, if set, limits to what is below.
func (s schemas) mutations(root *schema, object map[string]any, only string) []mutation {
	m := &mutator{schemas: s}
	m.walk("", root, object)
	var out []mutation
	for _, one := range m.out {
		if untouched(one.Path) || only != "" && one.Path != only && !strings.HasPrefix(one.Path, only+"/") {
			continue
		}
		out = append(out, one)
	}
	return out
}

// untouched are the places that say nothing about a kind's own rules.
func untouched(path string) bool {
	for _, prefix := range []string{"/metadata/managedFields", "/metadata/uid", "/metadata/resourceVersion", "/metadata/creationTimestamp", "/metadata/generation", "/metadata/selfLink"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func (m *mutator) add(op, path string, value any) {
	m.out = append(m.out, mutation{Op: op, Path: path, Value: value, null: value == nil && op != "remove"})
}

func (m *mutator) walk(path string, v *schema, value any) {
	v = m.schemas.resolve(v)
	if v == nil {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		m.object(path, v, value)
	case []any:
		m.list(path, v, value)
	case string:
		m.text(path, v, value)
	case float64:
		m.number(path, v, value)
	case bool:
		m.add("replace", path, !value)
		m.add("replace", path, "x")
	}
}

func (m *mutator) object(path string, v *schema, value map[string]any) {
	if path != "" {
		m.add("replace", path, map[string]any{})
		m.add("replace", path, "x")
		m.add("replace", path, nil)
	}
	for _, key := range slices.Sorted(maps.Keys(value)) {
		at := path + "/" + escape(key)
		if at == "/apiVersion" || at == "/kind" {
			continue
		}
		m.add("remove", at, nil)
		child := v.Properties[key]
		if child == nil {
			child = v.Additional
		}
		m.walk(at, child, value[key])
	}
	if v.Additional != nil {
		for _, key := range []string{"Bad Key!", "", strings.Repeat("k", 64), "a.b/c", "example.com/", strings.Repeat("k", 254)} {
			m.add("add", path+"/"+escape(key), m.schemas.sample(v.Additional, 0))
		}
		return
	}
	if len(v.Properties) > 0 && strings.Count(path, "/") < 3 {
		m.add("add", path+"/unknownField", "x")
	}
	for _, name := range slices.Sorted(maps.Keys(v.Properties)) {
		if _, present := value[name]; !present {
			m.absent(path+"/"+escape(name), v.Properties[name])
		}
	}
}

// absent tries a field that the object does not have: the least of it, all of it, and each of its parts alone.
func (m *mutator) absent(path string, v *schema) {
	v = m.schemas.resolve(v)
	if v == nil {
		return
	}
	if v.Type == "string" || v.Type == "integer" || v.anyType() && v.Type != "object" {
		for _, value := range m.values(v, nil) {
			m.add("add", path, value)
		}
		return
	}
	seen := map[string]bool{}
	try := func(value any) {
		if text := jsonOf(value); !seen[text] {
			seen[text] = true
			m.add("add", path, value)
		}
	}
	for depth := range 3 {
		try(m.schemas.sample(v, depth))
	}
	part, wrap := v, func(value any) any { return value }
	if v.Type == "array" {
		try([]any{})
		one := m.schemas.sample(v.Items, 1)
		try([]any{one, one})
		part, wrap = m.schemas.resolve(v.Items), func(value any) any { return []any{value} }
	}
	if part == nil || part.Properties == nil {
		if part != nil && part.Type == "string" {
			for _, value := range m.values(part, nil) {
				try(wrap(value))
			}
		}
		return
	}
	for _, name := range slices.Sorted(maps.Keys(part.Properties)) {
		for depth := range 2 {
			base, _ := m.schemas.sample(part, 0).(map[string]any)
			base[name] = m.schemas.sample(part.Properties[name], depth)
			try(wrap(base))
		}
	}
}

func (m *mutator) list(path string, v *schema, value []any) {
	m.add("replace", path, []any{})
	m.add("replace", path, "x")
	m.add("replace", path, nil)
	if len(value) > 0 {
		m.add("add", path+"/-", value[0])
	}
	m.add("add", path+"/-", m.schemas.sample(v.Items, 0))
	m.add("add", path+"/-", m.schemas.sample(v.Items, 1))
	for i := range value {
		at := path + "/" + strconv.Itoa(i)
		m.add("remove", at, nil)
		m.walk(at, v.Items, value[i])
	}
}

func (m *mutator) text(path string, v *schema, value string) {
	m.add("replace", path, 7)
	for _, other := range m.values(v, value) {
		m.add("replace", path, other)
	}
}

func (m *mutator) number(path string, v *schema, value float64) {
	m.add("replace", path, "x")
	for _, other := range m.values(v, value) {
		m.add("replace", path, other)
	}
}

// values are what is tried in the place of a scalar.
func (m *mutator) values(v *schema, now any) []any {
	var all []any
	switch {
	case v.Format == "int-or-string":
		all = []any{0, -1, 2, 70000, "", "0%", "50%", "101%", "-1%", "http", "Bad_Name", "a-name-that-is-too-long"}
	case len(v.OneOf) > 0 || v.Type == "" && v.Properties == nil:
		all = []any{"0", "-1", "1", "2.5", "1m", "3Gi", "100E", "bad", 5}
	case v.Type == "integer" || v.Type == "number":
		all = []any{0, -1, 1, 2, 100, 65536, 2147483647, 2147483648}
	case v.Format == "date-time":
		all = []any{"bad", "1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"}
	case v.Format == "byte":
		all = []any{"", "AQI=", "!"}
	case len(v.Enum) > 0:
		all = append(slices.Clone(v.Enum), "Bogus", "")
	default:
		all = []any{
			"", "x", "Bad_Name!", "-a.b", "a.b.example.com/c", strings.Repeat("a", 64), strings.Repeat("a", 300), "1.2.3.4", "../up", "5", "/abs",
			strings.Repeat("b", 32000),
		}
	}
	return slices.DeleteFunc(all, func(other any) bool { return jsonOf(other) == jsonOf(now) })
}

func escape(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
