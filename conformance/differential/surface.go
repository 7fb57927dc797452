package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// surface compares what the servers say of themselves: discovery in both forms, and the OpenAPI documents.
func (c *comparison) surface(ctx context.Context) {
	aggregated := "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for _, path := range []string{"/", "/api", "/apis"} {
		c.both(ctx, "discovery", request{method: http.MethodGet, path: path})
	}
	for _, path := range []string{"/api", "/apis"} {
		upstream, ours := c.pair.send(ctx, request{method: http.MethodGet, path: path, header: map[string]string{"Accept": aggregated}})
		c.report.add("discovery", "aggregated "+path, walkDifference("", byName(upstream), byName(ours)))
	}
	versions := map[string]bool{}
	for _, r := range c.resources {
		versions[r.apiVersion] = true
	}
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		upstream, ours := c.pair.send(ctx, request{method: http.MethodGet, path: groupPath(version)})
		c.report.add("discovery", version, walkDifference("", byName(upstream), byName(ours)))
		if group, _, ok := strings.Cut(version, "/"); ok {
			c.both(ctx, "discovery", request{method: http.MethodGet, path: "/apis/" + group})
		}
		path := "/openapi/v3" + groupPath(version)
		upstream, ours = c.pair.send(ctx, request{method: http.MethodGet, path: path})
		c.report.add("openapi", path, walkDifference("", strip(upstream.object()), strip(ours.object())))
	}
	upstream, ours := c.pair.send(ctx, request{method: http.MethodGet, path: "/openapi/v3"})
	c.report.add("openapi", "/openapi/v3", walkDifference("", strip(upstream.object()), strip(ours.object())))
	upstream, ours = c.pair.send(ctx, request{method: http.MethodGet, path: "/openapi/v2"})
	c.report.add("openapi", "/openapi/v2", walkDifference("", strip(upstream.object()), strip(ours.object())))
	for _, path := range []string{"/version/", "/.well-known/openid-configuration", "/livez", "/readyz", "/healthz", "/livez?verbose", "/readyz?verbose", "/nothing", "/apis/nothing", "/apis/apps/v9", "/api/v1/nothing"} {
		c.both(ctx, "paths", request{method: http.MethodGet, path: path})
	}
	upstream, ours = c.pair.send(ctx, request{method: http.MethodGet, path: "/metrics"})
	c.report.add("paths", "/metrics", walkDifference("", gates(upstream), gates(ours)))
}

var gate = regexp.MustCompile(`(?m)^kubernetes_feature_enabled(\{.*\}) (\d)$`)

// gates are the feature gates that a server's metrics name, with their stages and values.
func gates(a *answer) any {
	out := map[string]any{}
	for _, found := range gate.FindAllSubmatch(a.body, -1) {
		out[string(found[1])] = string(found[2])
	}
	return out
}

func (c *comparison) both(ctx context.Context, subject string, r request) {
	upstream, ours := c.pair.send(ctx, r)
	example := r.method + " " + r.path
	if len(r.body) > 0 && len(r.body) < 300 {
		example += " " + string(r.body)
	}
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		example += " " + name + "=" + r.header[name]
	}
	c.report.compare(subject, example, upstream, ours)
}

// byName turns every list of named things into a map, so that the order does not count and a missing one is told by name.
func byName(a *answer) any { return named(clean(a.object())) }

func named(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = named(value)
		}
		return v
	case []any:
		out := map[string]any{}
		for _, item := range v {
			entry, ok := item.(map[string]any)
			if !ok {
				return v
			}
			meta, _ := entry["metadata"].(map[string]any)
			name := ""
			for _, candidate := range []any{entry["name"], entry["resource"], entry["version"], entry["subresource"], meta["name"]} {
				if s, ok := candidate.(string); ok {
					name = s
					break
				}
			}
			if name == "" {
				return v
			}
			out[name] = named(item)
		}
		return out
	}
	return v
}

var hash = regexp.MustCompile(`hash=[0-9A-F]+`)

// strip removes from an OpenAPI document what says nothing about the API: hashes in links.
func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = strip(value)
		}
		return v
	case []any:
		for i := range v {
			v[i] = strip(v[i])
		}
		return v
	case string:
		return hash.ReplaceAllString(v, "hash=…")
	}
	return v
}

// age is a cell that depends on when it was asked for.
var age = regexp.MustCompile(`^(\d+[smhdy]){1,2}$`)

// tables compares what kubectl get prints of a kind: an object, the list, and definitions without objects.
func (c *comparison) tables(ctx context.Context, subject string, r *apiResource, name string) {
	accept := map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
	paths := []string{r.collection() + "/" + name, r.collection() + "/" + name + "?includeObject=None"}
	if slices.Contains(r.Verbs, "list") {
		paths = append(paths, r.collection()+"?includeObject=None&fieldSelector=metadata.name%3D"+name)
	}
	for _, path := range paths {
		upstream, ours := c.pair.send(ctx, request{method: http.MethodGet, path: path, header: accept})
		for _, a := range []*answer{upstream, ours} {
			a.body = young(a.body)
		}
		c.report.compare(subject, path, upstream, ours)
	}
	c.both(ctx, subject, request{method: http.MethodGet, path: paths[0], header: map[string]string{"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}})
}

// young replaces ages in the cells of a table.
func young(body []byte) []byte {
	var table map[string]any
	if json.Unmarshal(body, &table) != nil {
		return body
	}
	rows, _ := table["rows"].([]any)
	for _, row := range rows {
		entry, _ := row.(map[string]any)
		cells, _ := entry["cells"].([]any)
		for i := range cells {
			if s, ok := cells[i].(string); ok && age.MatchString(s) {
				cells[i] = fmt.Sprintf("<age %d>", strings.Count(s, "d")) // days and more are told, less is noise
			}
		}
	}
	return []byte(jsonOf(table))
}
