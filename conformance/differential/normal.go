package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	uuid        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	tokenVolume = regexp.MustCompile(`kube-api-access-[a-z0-9]{5}`)
	moment      = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	revision    = regexp.MustCompile(`(ResourceVersion|resourceVersion|in record|, current|in object meta)[:=]? ?["(]?\d+[")]?`)
	index       = regexp.MustCompile(`\[\d+\]`)
	address     = regexp.MustCompile(`(127\.0\.0|192\.0\.2)\.1:\d+`)
	// Upstream prints values of its internal types, which have other names for the fields.
	printed    = regexp.MustCompile(`(?s)(Invalid|Duplicate|Unsupported) value: (\{.*\}|\[.*\]|\{.*\}$)`)
	patched    = regexp.MustCompile(`(?s)^Invalid value: ".*": `)
	difference = regexp.MustCompile(`(?s)\n@@.*$`)
)

// compare returns what differs between two answers, one line each; none if they are the same but for what no two servers share.
func compare(upstream, ours *answer) []string {
	if upstream.code == 0 && ours.code == 0 {
		return nil // the same library panics in both
	}
	var out []string
	if upstream.code != ours.code {
		out = append(out, fmt.Sprintf("code: %d, ours %d (%s)", upstream.code, ours.code, brief(ours.body)))
		return append(out, "upstream says: "+brief(upstream.body))
	}
	if a, b := masked(upstream.warnings), masked(ours.warnings); !slices.Equal(a, b) {
		out = append(out, fmt.Sprintf("warnings: %q, ours %q", a, b))
	}
	a, b := upstream.object(), ours.object()
	if a == nil || b == nil {
		if string(upstream.body) != string(ours.body) {
			a, b := strings.Split(mask(string(upstream.body)), "\n"), strings.Split(mask(string(ours.body)), "\n")
			out = append(append(out, missing("body misses: ", a, b)...), missing("body has too much: ", b, a)...)
		}
		return out
	}
	if a["kind"] == "Status" && b["kind"] == "Status" && upstream.code >= 400 {
		return append(out, compareStatus(a, b)...)
	}
	return append(out, walkDifference("", clean(a), clean(b))...)
}

// compareStatus compares failures. The order in which several causes are listed is not compared, nor then the message, which
// repeats them.
func compareStatus(a, b map[string]any) []string {
	causesA, causesB := causes(a), causes(b)
	out := missing("missing: ", causesA, causesB)
	out = append(out, missing("too much: ", causesB, causesA)...)
	if len(causesA) > 1 || len(causesA) == 1 && strings.HasPrefix(causesA[0], "patch: ") {
		delete(a, "message")
		delete(b, "message")
	}
	if len(out) > 0 {
		return out
	}
	for _, status := range []map[string]any{a, b} {
		if details, ok := status["details"].(map[string]any); ok {
			delete(details, "causes")
		}
	}
	return walkDifference("", clean(a), clean(b))
}

func causes(status map[string]any) []string {
	details, _ := status["details"].(map[string]any)
	list, _ := details["causes"].([]any)
	var out []string
	for _, c := range list {
		cause, _ := c.(map[string]any)
		message := mask(fmt.Sprint(cause["message"]))
		if cause["field"] == "patch" { // the value is the whole object
			message = patched.ReplaceAllString(message, "")
		}
		out = append(out, fmt.Sprintf("%v: %s (%v)", cause["field"], message, cause["reason"]))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// missing lists what is in a more often than in b.
func missing(prefix string, a, b []string) []string {
	left := map[string]int{}
	for _, s := range b {
		left[s]++
	}
	var out []string
	for _, s := range a {
		if left[s]--; left[s] < 0 {
			out = append(out, prefix+s)
		}
	}
	return out
}

// clean removes from an object what differs from server to server.
func clean(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			if v["kind"] == "SelfSubjectRulesReview" && key == "status" {
				value = sorted(value) // upstream asks bindings in the order of a Go map
			}
			if v["kind"] == "ComponentStatusList" {
				value = named(value) // upstream lists them as they answer
			}
			switch key {
			case "uid", "resourceVersion", "creationTimestamp":
				if s, ok := value.(string); ok && s != "" {
					value = "<set>"
				}
			case "managedFields":
				value = cleanManagers(value)
			}
			out[tokenVolume.ReplaceAllString(key, "kube-api-access-<random>")] = clean(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = clean(v[i])
		}
		return out
	case string:
		return mask(v)
	}
	return v
}

// sorted orders every list of objects.
func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = sorted(value)
		}
	case []any:
		if texts(v) == nil {
			slices.SortFunc(v, func(a, b any) int { return strings.Compare(jsonOf(a), jsonOf(b)) })
		}
	}
	return v
}

// cleanManagers drops the times of field managers and orders them.
func cleanManagers(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	list = slices.Clone(list)
	for i := range list {
		if entry, ok := list[i].(map[string]any); ok {
			entry = maps.Clone(entry)
			delete(entry, "time")
			list[i] = entry
		}
	}
	slices.SortStableFunc(list, func(a, b any) int { return strings.Compare(jsonOf(a), jsonOf(b)) })
	return list
}

func mask(s string) string {
	s = uuid.ReplaceAllString(s, "<uid>")
	s = tokenVolume.ReplaceAllString(s, "kube-api-access-<random>")
	s = revision.ReplaceAllString(s, "$1 <revision>")
	s = address.ReplaceAllString(s, "<server>")
	s = printed.ReplaceAllString(s, "$1 value: <object>")
	s = difference.ReplaceAllString(s, "<difference>")
	return moment.ReplaceAllStringFunc(s, func(found string) string {
		at, err := time.Parse(time.RFC3339Nano, found)
		if err != nil || time.Since(at).Abs() > 2*time.Hour {
			return found
		}
		return "<now>"
	})
}

func masked(list []string) []string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = mask(list[i])
	}
	slices.Sort(out)
	return out
}

// walkDifference lists the paths where two JSON values differ.
func walkDifference(path string, a, b any) []string {
	switch av := a.(type) {
	case map[string]any:
		bv, ok := b.(map[string]any)
		if !ok {
			break
		}
		keys := map[string]bool{}
		for key := range av {
			keys[key] = true
		}
		for key := range bv {
			keys[key] = true
		}
		var out []string
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			x, inA := av[key]
			y, inB := bv[key]
			switch {
			case !inB:
				out = append(out, fmt.Sprintf("%s.%s: %s, ours absent", path, key, brief([]byte(jsonOf(x)))))
			case !inA:
				out = append(out, fmt.Sprintf("%s.%s: absent, ours %s", path, key, brief([]byte(jsonOf(y)))))
			default:
				out = append(out, walkDifference(path+"."+key, x, y)...)
			}
		}
		return out
	case []any:
		bv, ok := b.([]any)
		if !ok {
			break
		}
		if x, y := texts(av), texts(bv); len(av) != len(bv) && x != nil && y != nil {
			return append(missing(path+" misses: ", x, y), missing(path+" has too much: ", y, x)...)
		}
		if len(av) != len(bv) {
			break
		}
		var out []string
		for i := range av {
			out = append(out, walkDifference(fmt.Sprintf("%s[%d]", path, i), av[i], bv[i])...)
		}
		return out
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s, ours %s", path, brief([]byte(jsonOf(a))), brief([]byte(jsonOf(b))))}
}

// texts is a list of strings as such; nil if it has anything else.
func texts(list []any) []string {
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		out = append(out, s)
	}
	return out
}

func jsonOf(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

// brief shortens a text to what a line of a report can hold.
func brief(data []byte) string {
	const longest = 600
	var status struct{ Kind, Message string }
	if json.Unmarshal(data, &status) == nil && status.Kind == "Status" && status.Message != "" {
		data = []byte(status.Message)
	}
	text := mask(strings.TrimSpace(string(data)))
	if len(text) > longest {
		return text[:longest] + "…"
	}
	return text
}
