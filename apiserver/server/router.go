package server

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/emicklei/go-restful/v3"
)

// router finds the route of a request by walking a tree of path segments. The library's own compares the path with every route of the
// group version and copies the matching ones. It still judges whatever the tree does not settle: wildcards, and requests that are
// going to be refused for their method, content type or accepted types.
type router struct {
	restful.CurlyRouter
	index atomic.Pointer[routeIndex]
}

// routeIndex is good for as many services as it was made of.
type routeIndex struct {
	services int
	root     segment
}

// segment is a node of the tree: the part of a path between two slashes.
type segment struct {
	static map[string]*segment
	param  *segment // {name}
	routes []route
}

type route struct {
	service *restful.WebService
	route   *restful.Route
}

// SelectRoute implements restful.RouteSelector.
func (r *router) SelectRoute(services []*restful.WebService, request *http.Request) (*restful.WebService, *restful.Route, error) {
	index := r.index.Load()
	if index == nil || index.services != len(services) {
		index = newRouteIndex(services)
		r.index.Store(index)
	}
	if found, ok := index.find(request); ok {
		return found.service, found.route, nil
	}
	return r.CurlyRouter.SelectRoute(services, request)
}

func newRouteIndex(services []*restful.WebService) *routeIndex {
	index := &routeIndex{services: len(services)}
	for _, service := range services {
		routes := service.Routes()
		for i := range routes {
			index.add(route{service, &routes[i]})
		}
	}
	return index
}

func (x *routeIndex) add(r route) {
	at := &x.root
	for part := range strings.SplitSeq(strings.Trim(r.route.Path, "/"), "/") {
		switch {
		case part == "" || strings.Contains(part, ":"): // the root, a wildcard, or a verb behind a name
			return
		case strings.HasPrefix(part, "{") && strings.HasSuffix(part, "}"):
			if at.param == nil {
				at.param = &segment{}
			}
			at = at.param
		default:
			next := at.static[part]
			if next == nil {
				if at.static == nil {
					at.static = map[string]*segment{}
				}
				next = &segment{}
				at.static[part] = next
			}
			at = next
		}
	}
	at.routes = append(at.routes, r)
}

// find returns the only route that takes the request.
func (x *routeIndex) find(request *http.Request) (route, bool) {
	rest, ok := strings.CutPrefix(request.URL.Path, "/")
	if !ok {
		return route{}, false
	}
	at := &x.root
	for more := true; more; {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		next := at.static[part]
		if next == nil {
			next = at.param
		}
		if part == "" || next == nil {
			return route{}, false
		}
		at = next
	}
	var found route
	for _, r := range at.routes {
		if r.route.Method != request.Method {
			continue
		}
		if found.route != nil {
			return route{}, false
		}
		found = r
	}
	return found, found.route != nil && takes(found.route, request.Header)
}

// takes tells whether the route certainly serves the media types of a request.
func takes(r *restful.Route, header http.Header) bool {
	if len(r.If) > 0 {
		return false
	}
	if len(r.Consumes) > 0 && !slices.Contains(r.Consumes, "*/*") && !slices.Contains(r.Consumes, header.Get("Content-Type")) {
		return false
	}
	accept := header.Get("Accept")
	if accept == "" {
		return true
	}
	for one := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(one, ";")
		if kind = strings.TrimSpace(kind); kind == "*/*" || slices.Contains(r.Produces, kind) {
			return true
		}
	}
	return false
}
