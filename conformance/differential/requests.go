package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

const (
	mergePatch     = "application/merge-patch+json"
	jsonPatchType  = "application/json-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

// requests compares what bad requests are told.
func (c *comparison) requests(ctx context.Context) {
	maps := "/api/v1/namespaces/" + namespace + "/configmaps"
	valid := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","labels":{"a":"b"}},"data":{"a":"b"}}`)
	c.both(ctx, "requests", request{method: http.MethodPost, path: maps, body: valid})
	c.both(ctx, "requests", request{method: http.MethodPost, path: maps, body: valid}) // exists
	for _, r := range badBodies(maps) {
		c.both(ctx, "requests", r)
	}
	for _, query := range badQueries {
		c.both(ctx, "requests", request{method: http.MethodGet, path: maps + "?" + query})
		c.both(ctx, "requests", request{method: http.MethodGet, path: maps + "/one?" + query})
		c.both(ctx, "requests", request{method: http.MethodDelete, path: maps + "/one?dryRun=All&" + query})
		c.both(ctx, "requests", request{method: http.MethodPost, path: maps + "?dryRun=All&" + query, body: []byte(strings.Replace(string(valid), "one", "two", 1))})
	}
	for _, r := range badPatches {
		r.path = maps + r.path
		c.both(ctx, "requests", r)
	}
	for _, accept := range []string{"text/html", "application/yaml", "application/cbor", "application/json;as=Table;v=v9;g=meta.k8s.io", "application/json;as=Nothing;v=v1;g=meta.k8s.io", "*/*", "garbage"} {
		c.both(ctx, "requests", request{method: http.MethodGet, path: maps + "/one?pretty=0", header: map[string]string{"Accept": accept}})
	}
	for _, path := range []string{
		"/api/v1/namespaces/none/configmaps/one", "/api/v1/configmaps/one", "/api/v1/namespaces/" + namespace + "/nothing", maps + "/absent", maps + "/one/status",
		maps + "/Bad_Name", maps + "/one/nothing", "/api/v1/nodes/absent", "/api/v1/namespaces/" + namespace + "/pods/absent/log", "/api/v1/watch/namespaces/" + namespace + "/nothing",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "OPTIONS", "NONSENSE"} {
			c.both(ctx, "requests", request{method: method, path: path, body: []byte("{}"), header: map[string]string{"Content-Type": map[bool]string{true: mergePatch, false: "application/json"}[method == http.MethodPatch]}})
		}
	}
	c.strangers(ctx)
	c.both(ctx, "requests", request{method: http.MethodDelete, path: maps + "/one"})
}

// strangers compares what those are told who may not.
func (c *comparison) strangers(ctx context.Context) {
	for _, who := range []string{"", "Bearer plain", "Bearer wrong", "Basic YTpi"} {
		for _, path := range []string{
			"/", "/api", "/api/v1/nodes", "/api/v1/namespaces/" + namespace + "/pods", "/api/v1/namespaces/" + namespace + "/pods/p/exec?command=a",
			"/apis/apps/v1/namespaces/" + namespace + "/deployments/d/scale", "/version", "/metrics", "/openapi/v2", "/readyz", "/nothing",
		} {
			c.both(ctx, "strangers", request{method: http.MethodGet, path: path, header: map[string]string{"Authorization": who}})
			c.both(ctx, "strangers", request{method: http.MethodPost, path: path, body: []byte("{}"), header: map[string]string{"Authorization": who}})
		}
	}
	for _, user := range []string{"system:serviceaccount:a:b", "someone", "system:node:n1"} {
		c.both(ctx, "strangers", request{method: http.MethodGet, path: "/api/v1/nodes", header: map[string]string{"Impersonate-User": user, "Impersonate-Group": "system:authenticated"}})
	}
	c.both(ctx, "strangers", request{method: http.MethodGet, path: "/api/v1/nodes", header: map[string]string{"Impersonate-Group": "a"}})
}

func badBodies(maps string) []request {
	post := func(kind, body string) request {
		return request{method: http.MethodPost, path: maps, body: []byte(body), header: map[string]string{"Content-Type": kind}}
	}
	big := strings.Repeat("a", 4<<20)
	return []request{
		post("application/json", ""), post("application/json", "{"), post("application/json", "[]"), post("application/json", "null"), post("application/json", "{}"),
		post("application/json", `"x"`), post("text/plain", "{}"), post("", "{}"), post("application/x-www-form-urlencoded", "a=b"),
		post("application/yaml", "a: [b"), post("application/yaml", "a: b\na: c\n"), post("application/yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: y}\ndata: {a: 1}\n"),
		post("application/vnd.kubernetes.protobuf", "xyz"), post("application/vnd.kubernetes.protobuf", "k8s\x00\x01"), post("application/cbor", "\xff"),
		post("application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`), post("application/json", `{"apiVersion":"apps/v1","kind":"ConfigMap","metadata":{"name":"x"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"other"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}`), post("application/json", `{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"x"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","resourceVersion":"5"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"b","a":"c"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"`+big+`"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"`+big[:1<<20+1]+`"}}`),
		post("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":`+strings.Repeat("[", 20000)),
		{method: http.MethodPut, path: maps + "/one", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"two"}}`)},
		{method: http.MethodPut, path: maps + "/one", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","resourceVersion":"1"}}`)},
		{method: http.MethodPut, path: maps + "/one", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","resourceVersion":"x"}}`)},
		{method: http.MethodPut, path: maps + "/one", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","uid":"x"}}`)},
		{method: http.MethodPut, path: maps + "/absent", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"absent"}}`)},
		{method: http.MethodPut, path: maps + "/absent", body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"absent","uid":"x"}}`)},
		{method: http.MethodDelete, path: maps + "/one", body: []byte(`{"preconditions":{"uid":"x"}}`)}, {method: http.MethodDelete, path: maps + "/one", body: []byte(`{"preconditions":{"resourceVersion":"1"}}`)},
		{method: http.MethodDelete, path: maps + "/one?dryRun=All", body: []byte(`{"gracePeriodSeconds":-1}`)}, {method: http.MethodDelete, path: maps + "/one", body: []byte(`{"kind":"Other"}`)},
		{method: http.MethodDelete, path: maps + "/one", body: []byte(`{"propagationPolicy":"Wrong"}`)}, {method: http.MethodDelete, path: maps + "/one", body: []byte(`{"orphanDependents":true,"propagationPolicy":"Orphan"}`)},
		{method: http.MethodDelete, path: maps + "/one", body: []byte(`{"dryRun":["x"]}`)}, {method: http.MethodDelete, path: maps + "/one?dryRun=All", body: []byte(`{"ignoreStoreReadErrorWithClusterBreakingPotential":true}`)},
	}
}

var badQueries = []string{
	"labelSelector=" + url.QueryEscape("a in (b"), "labelSelector=" + url.QueryEscape("a==b,!c,d notin (e,f),g>5"), "labelSelector=" + url.QueryEscape("g>x"), "labelSelector=" + url.QueryEscape("-a=b"),
	"labelSelector=" + strings.Repeat("a%3Db%2C", 500) + "a", "fieldSelector=metadata.name", "fieldSelector=spec.nothing%3Dx", "fieldSelector=metadata.name%3Done%2Cmetadata.namespace%21%3Dx", "fieldSelector=%3D",
	"limit=-1", "limit=x", "limit=1&continue=x", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0", "continue=%ff", "limit=99999999999999999999", "limit=1",
	"resourceVersion=x", "resourceVersion=99999999", "resourceVersion=0&resourceVersionMatch=Exact", "resourceVersionMatch=Exact", "resourceVersionMatch=Wrong&resourceVersion=1", "resourceVersion=-1",
	"resourceVersion=1&resourceVersionMatch=Exact", "sendInitialEvents=true", "watch=true&timeoutSeconds=1&resourceVersion=x", "watch=x&timeoutSeconds=1", "watch=true&timeoutSeconds=1&sendInitialEvents=true",
	"watch=true&timeoutSeconds=1&resourceVersionMatch=NotOlderThan", "timeoutSeconds=x", "timeout=1x", "timeout=-1s", "unknown=1", "pretty=true", "pretty=x", "dryRun=x", "dryRun=All&dryRun=All",
	"fieldValidation=Wrong", "fieldValidation=Strict", "fieldManager=" + strings.Repeat("a", 129), "fieldManager=a%01", "force=true", "force=x", "gracePeriodSeconds=x", "gracePeriodSeconds=-5",
	"propagationPolicy=Wrong", "orphanDependents=true", "orphanDependents=x", "includeObject=Wrong", "allowWatchBookmarks=x", "shardSelector=x",
}

// badPatches are sent to configmaps; path is what follows.
var badPatches = func() []request {
	patch := func(kind, query, body string) request {
		return request{method: http.MethodPatch, path: "/one" + query, body: []byte(body), header: map[string]string{"Content-Type": kind}}
	}
	apply := "?dryRun=All&fieldManager=m"
	return []request{
		patch("application/json", "", "{}"), patch("", "", "{}"), patch("text/plain", "", "{}"), patch(mergePatch, "", "{"), patch(mergePatch, "", "[]"), patch(mergePatch, "", `"x"`), patch(mergePatch, "", ""),
		patch(mergePatch, "?dryRun=All", `{"data":{"a":1}}`), patch(mergePatch, "?dryRun=All", `{"data":"x"}`), patch(mergePatch, "?dryRun=All", `{"kind":"Pod"}`), patch(mergePatch, "?dryRun=All", `{"apiVersion":"v2"}`),
		patch(mergePatch, "?dryRun=All", `{"metadata":{"name":"two"}}`), patch(mergePatch, "?dryRun=All", `{"metadata":{"namespace":"two"}}`), patch(mergePatch, "?dryRun=All", `{"metadata":{"uid":"two"}}`),
		patch(mergePatch, "?dryRun=All", `{"metadata":{"resourceVersion":"1"}}`), patch(mergePatch, "?dryRun=All", `{"metadata":null}`), patch(mergePatch, "?dryRun=All&fieldValidation=Strict", `{"x":1,"data":{"a":"b","a":"c"}}`),
		patch(mergePatch, "?dryRun=All&force=true", `{}`), patch(mergePatch, "?dryRun=All&fieldValidation=Warn", `{"x":{"y":1}}`),
		patch(jsonPatchType, "?dryRun=All", `{}`), patch(jsonPatchType, "?dryRun=All", `[]`), patch(jsonPatchType, "?dryRun=All", `[{"op":"remove","path":"/nothing"}]`), patch(jsonPatchType, "?dryRun=All", `[{"op":"wrong","path":"/data"}]`),
		patch(jsonPatchType, "?dryRun=All", `[{"op":"test","path":"/data/a","value":"z"}]`), patch(jsonPatchType, "?dryRun=All", `[{"op":"replace","path":"data","value":{}}]`), patch(jsonPatchType, "", "["+strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/data/a","value":"b"},`, 10001), ",")+"]"),
		patch(jsonPatchType, "?dryRun=All", `[{"op":"copy","from":"/data","path":"/metadata/labels"}]`), patch(jsonPatchType, "?dryRun=All", `[{"op":"add","path":"/metadata/ownerReferences","value":[{"name":"x"}]}]`),
		patch(strategicPatch, "?dryRun=All", `{"metadata":{"labels":{"$patch":"replace","c":"d"}}}`), patch(strategicPatch, "?dryRun=All", `{"metadata":{"$patch":"wrong"}}`), patch(strategicPatch, "?dryRun=All", `{"data":[1]}`), patch(strategicPatch, "?dryRun=All", `[`),
		patch(strategicPatch, "?dryRun=All", `{"metadata":{"finalizers":[1]}}`), patch(strategicPatch, "?dryRun=All", `{"metadata":{"$retainKeys":["x"]}}`), patch(strategicPatch, "?dryRun=All", `{"$patch":"delete"}`),
		patch(applyPatch, "", `{}`), patch(applyPatch, apply, `{}`), patch(applyPatch, apply, `a: [`), patch(applyPatch, apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"two"}}`),
		patch(applyPatch, apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"a":"c"}}`), patch(applyPatch, apply+"&force=true", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"a":"c"}}`),
		patch(applyPatch, apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"x":1}`), patch(applyPatch, apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","managedFields":[{}]}}`),
		patch(applyPatch, apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"a":"b"},"data":{"a":"c"}}`), patch(applyPatch, "?dryRun=All", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"}}`),
		{method: http.MethodPatch, path: "/absent?dryRun=All", body: []byte(`{}`), header: map[string]string{"Content-Type": mergePatch}},
		{method: http.MethodPatch, path: "/absent" + apply, body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"absent"}}`), header: map[string]string{"Content-Type": applyPatch}},
	}
}()
