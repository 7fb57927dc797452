package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/emicklei/go-restful/v3"
)

func webServices() []*restful.WebService {
	nothing := func(*restful.Request, *restful.Response) {}
	service := func(root string, paths ...string) *restful.WebService {
		ws := new(restful.WebService).Path(root).Consumes("*/*").Produces("application/json", "application/vnd.kubernetes.protobuf")
		for _, path := range paths {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				ws.Route(ws.Method(method).Path(path).To(nothing))
			}
			ws.Route(ws.PATCH(path).Consumes("application/merge-patch+json", "application/json-patch+json").To(nothing))
		}
		return ws
	}
	return []*restful.WebService{
		service("/api", "/"),
		service("/api/v1", "/", "/namespaces", "/namespaces/{name}", "/namespaces/{name}/status", "/pods", "/namespaces/{namespace}/pods",
			"/namespaces/{namespace}/pods/{name}", "/namespaces/{namespace}/pods/{name}/log", "/namespaces/{namespace}/pods/{name}/proxy",
			"/namespaces/{namespace}/pods/{name}/proxy/{path:*}", "/watch/pods", "/watch/namespaces/{namespace}/pods"),
		service("/apis/apps/v1", "/deployments", "/namespaces/{namespace}/deployments", "/namespaces/{namespace}/deployments/{name}"),
		service("/apis/apps", "/"),
	}
}

// TestRouterAgreesWithTheLibrary asks both for every combination.
func TestRouterAgreesWithTheLibrary(t *testing.T) {
	all, ours, found := webServices(), &router{}, 0
	for _, path := range []string{
		"/", "/api", "/api/", "/api/v1", "/api/v1/", "/api/v1/pods", "/api/v1/pods/", "/api/v1//pods", "/api/v1/namespaces/a", "/api/v1/namespaces/a/",
		"/api/v1/namespaces/a/status", "/api/v1/namespaces/status/pods", "/api/v1/namespaces/pods/pods/pods", "/api/v1/namespaces/a/pods",
		"/api/v1/namespaces/a/pods/b", "/api/v1/namespaces/a/pods/b/log", "/api/v1/namespaces/a/pods/b/proxy", "/api/v1/namespaces/a/pods/b/proxy/",
		"/api/v1/namespaces/a/pods/b/proxy/c/d", "/api/v1/namespaces/a/pods/b/c", "/api/v1/watch/pods", "/api/v1/watch/namespaces/a/pods",
		"/api/v1/watch", "/apis/apps", "/apis/apps/v1/deployments", "/apis/apps/v1/namespaces/a/deployments/b", "/apis/batch/v1/jobs", "/metrics",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodHead} {
			for _, accept := range []string{"", "*/*", "application/json", "text/html, application/json;q=0.5", "application/yaml"} {
				for _, content := range []string{"", "application/json", "application/merge-patch+json", "application/merge-patch+json; charset=utf-8"} {
					request := httptest.NewRequest(method, path, nil)
					request.Header.Set("Accept", accept)
					request.Header.Set("Content-Type", content)
					service, route, err := ours.SelectRoute(all, request)
					wantService, wantRoute, wantErr := restful.CurlyRouter{}.SelectRoute(all, request)
					if service != wantService || pathOf(route) != pathOf(wantRoute) || (err == nil) != (wantErr == nil) {
						t.Errorf("%s %s accept %q content %q: got %s %v, the library says %s %v", method, path, accept, content, pathOf(route), err, pathOf(wantRoute), wantErr)
					}
					if _, ok := ours.index.Load().find(request); ok {
						found++
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("the tree settled nothing")
	}
}

func pathOf(r *restful.Route) string {
	if r == nil {
		return ""
	}
	return r.Method + " " + r.Path
}
