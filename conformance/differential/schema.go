package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// schema is what the mutator needs to know of an OpenAPI v3 schema.
type schema struct {
	Ref        string             `json:"$ref"`
	AllOf      []*schema          `json:"allOf"`
	OneOf      []*schema          `json:"oneOf"`
	Type       string             `json:"type"`
	Format     string             `json:"format"`
	Enum       []any              `json:"enum"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	Additional *schema            `json:"additionalProperties"`
	GVK        []struct {
		Group, Version, Kind string
	} `json:"x-kubernetes-group-version-kind"`
}

// schemas resolves references within one group version's document.
type schemas map[string]*schema

// load asks upstream for the document of a group version.
func loadSchemas(ctx context.Context, c *client, apiVersion string) (schemas, error) {
	a, err := c.send(ctx, request{method: http.MethodGet, path: "/openapi/v3/" + strings.TrimPrefix(groupPath(apiVersion), "/")})
	if err != nil {
		return nil, err
	}
	var document struct {
		Components struct{ Schemas schemas }
	}
	if err := json.Unmarshal(a.body, &document); err != nil {
		return nil, fmt.Errorf("OpenAPI of %s: %w", apiVersion, err)
	}
	return document.Components.Schemas, nil
}

func (s schemas) of(apiVersion, kind string) (*schema, error) {
	for _, candidate := range s {
		for _, gvk := range candidate.GVK {
			if gvk.Kind == kind && joined(gvk.Group, gvk.Version) == apiVersion && len(candidate.GVK) == 1 {
				return candidate, nil
			}
		}
	}
	return nil, fmt.Errorf("no schema of %s %s", apiVersion, kind)
}

// resolve follows references; nil stays nil.
func (s schemas) resolve(v *schema) *schema {
	for v != nil {
		switch {
		case v.Ref != "":
			v = s[strings.TrimPrefix(v.Ref, "#/components/schemas/")]
		case len(v.AllOf) == 1:
			v = v.AllOf[0]
		default:
			return v
		}
	}
	return nil
}

// anyType tells a schema without a type of its own: a quantity, an int-or-string, raw JSON.
func (v *schema) anyType() bool { return v.Type == "" || len(v.OneOf) > 0 }

// sample makes a value of a schema; depth bounds how far optional properties are filled in.
func (s schemas) sample(v *schema, depth int) any {
	v = s.resolve(v)
	switch {
	case v == nil:
		return map[string]any{}
	case len(v.Enum) > 0:
		return v.Enum[0]
	case v.Format == "int-or-string":
		return 1
	case len(v.OneOf) > 0:
		return "1"
	}
	switch v.Type {
	case "string":
		switch v.Format {
		case "date-time":
			return "2024-01-02T03:04:05Z"
		case "byte":
			return "AQ=="
		}
		return "x"
	case "integer", "number":
		return 1
	case "boolean":
		return true
	case "array":
		return []any{s.sample(v.Items, depth)}
	}
	out := map[string]any{}
	if v.Additional != nil {
		out["k"] = s.sample(v.Additional, depth)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Properties)) {
		if depth > 0 || slices.Contains(v.Required, name) {
			out[name] = s.sample(v.Properties[name], depth-1)
		}
	}
	return out
}

func joined(group, version string) string {
	if group == "" {
		return version
	}
	return group + "/" + version
}

// groupPath is the root of a group version.
func groupPath(apiVersion string) string {
	if strings.Contains(apiVersion, "/") {
		return "/apis/" + apiVersion
	}
	return "/api/" + apiVersion
}
