package server

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"keelson.dev/internal/secureserving"
)

// How long answers of the API server count: as upstream's kubelet has it by default.
var ttls = secureserving.TTLs{Token: 2 * time.Minute, Allowed: 5 * time.Minute, Denied: 30 * time.Second}

// newGate is the kubelet's delegated authentication and authorization. A request needs the fine-grained right of its path, or
// nodes/proxy, which covers all.
func newGate(cfg Config) *secureserving.Gate {
	gate := secureserving.GateConfig{
		Client: cfg.Client, ClientCAs: secureserving.CAFile(cfg.ClientCAFile), Anonymous: cfg.Anonymous, TTLs: ttls, Clock: cfg.Clock,
		Subject: func(r *http.Request) string {
			verb, subresources := attributes(r)
			return fmt.Sprintf("verb=%s, resource=nodes, subresource(s)=%v", verb, subresources)
		},
	}
	if !cfg.AlwaysAllow {
		gate.Rights = func(r *http.Request) (out []authorizationv1.SubjectAccessReviewSpec) {
			verb, subresources := attributes(r)
			for _, subresource := range subresources {
				out = append(out, authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: cfg.NodeName,
				}})
			}
			return out
		}
	}
	return secureserving.NewGate(gate)
}

// attributes says which right on the node a request needs: a verb and the subresources of which one suffices.
func attributes(r *http.Request) (verb string, subresources []string) {
	verbs := map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}
	verb = verbs[r.Method]
	path := r.URL.Path
	for _, row := range []struct {
		prefix       string
		subresources []string
	}{
		{"/stats", []string{"stats"}},
		{"/metrics", []string{"metrics"}},
		{"/logs", []string{"log"}},
		{"/checkpoint", []string{"checkpoint"}},
		{"/pods", []string{"pods", "proxy"}},
		{"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}},
		{"/configz", []string{"configz", "proxy"}},
	} {
		if path == row.prefix || strings.HasPrefix(path, row.prefix+"/") {
			return verb, row.subresources
		}
	}
	return verb, []string{"proxy"}
}
