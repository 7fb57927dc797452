package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// comparison is one run.
type comparison struct {
	pair      pair
	report    *report
	seeds     []*seed
	workers   int
	resources map[string]*apiResource // by apiVersion and kind
	documents map[string]schemas
}

// apiResource is a served resource as discovery names it.
type apiResource struct {
	Name         string
	Kind         string
	Namespaced   bool
	Verbs        []string
	apiVersion   string
	subresources []string
}

// run goes through the stages: first what needs no object, then, seed by seed, all that is asked of its kind.
func (c *comparison) run(ctx context.Context, stages *regexp.Regexp) error {
	c.documents = map[string]schemas{}
	if err := c.discover(ctx); err != nil {
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return err
	}
	for _, stage := range []struct {
		name string
		run  func(context.Context)
	}{{"surface", c.surface}, {"requests", c.requests}, {"subresources", c.subresources}} {
		if stages.MatchString(stage.name) {
			stage.run(ctx)
		}
	}
	for _, s := range c.seeds {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.kind(ctx, s, stages); err != nil {
			return fmt.Errorf("seed %s of %s: %w", s.name(), s.file, err)
		}
	}
	return nil
}

// discover asks upstream for what it serves.
func (c *comparison) discover(ctx context.Context) error {
	var groups struct {
		Groups []struct {
			Versions []struct{ GroupVersion string }
		}
	}
	if err := c.get(ctx, "/apis", &groups); err != nil {
		return err
	}
	versions := []string{"v1"}
	for _, group := range groups.Groups {
		for _, version := range group.Versions {
			versions = append(versions, version.GroupVersion)
		}
	}
	c.resources = map[string]*apiResource{}
	for _, version := range versions {
		var list struct{ Resources []*apiResource }
		if err := c.get(ctx, groupPath(version), &list); err != nil {
			return err
		}
		byName := map[string]*apiResource{}
		for _, r := range list.Resources {
			name, sub, isSub := strings.Cut(r.Name, "/")
			if isSub {
				if byName[name] != nil {
					byName[name].subresources = append(byName[name].subresources, sub)
				}
				continue
			}
			r.apiVersion = version
			byName[name], c.resources[version+" "+r.Kind] = r, r
		}
	}
	return nil
}

func (c *comparison) get(ctx context.Context, path string, into any) error {
	a, err := c.pair.upstream.send(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	return json.Unmarshal(a.body, into)
}

// prepare makes what the seeds rest on: a namespace with the service account that pods need.
func (c *comparison) prepare(ctx context.Context) error {
	for _, r := range []request{
		{method: http.MethodPost, path: "/api/v1/namespaces", body: fmt.Appendf(nil, `{"metadata":{"name":%q}}`, namespace)},
		{method: http.MethodPost, path: "/api/v1/namespaces/" + namespace + "/serviceaccounts", body: []byte(`{"metadata":{"name":"default"}}`)},
	} {
		for _, server := range []*client{c.pair.upstream, c.pair.ours} {
			a, err := server.send(ctx, r)
			if err != nil {
				return err
			}
			if a.code != http.StatusCreated {
				return fmt.Errorf("%s: %s %s: %s", server.name, r.method, r.path, a.body)
			}
		}
	}
	return nil
}

// collection is the path of a resource's list.
func (r *apiResource) collection() string {
	if r.Namespaced {
		return groupPath(r.apiVersion) + "/namespaces/" + namespace + "/" + r.Name
	}
	return groupPath(r.apiVersion) + "/" + r.Name
}

// kind does everything with one seed.
func (c *comparison) kind(ctx context.Context, s *seed, stages *regexp.Regexp) error {
	r := c.resources[s.apiVersion()+" "+s.kind()]
	if r == nil {
		return fmt.Errorf("upstream does not serve %s %s", s.apiVersion(), s.kind())
	}
	document := c.documents[r.apiVersion]
	if document == nil {
		var err error
		if document, err = loadSchemas(ctx, c.pair.upstream, r.apiVersion); err != nil {
			return err
		}
		c.documents[r.apiVersion] = document
	}
	root, err := document.of(s.apiVersion(), s.kind())
	if err != nil {
		return err
	}
	subject := r.Name + "." + r.apiVersion
	if stages.MatchString("create") {
		c.creates(ctx, subject, r, s, document.mutations(root, s.object, ""))
	}
	upstream, ours := c.pair.send(ctx, request{method: http.MethodPost, path: r.collection(), body: []byte(jsonOf(s.object))})
	c.report.compare(subject+" seed", "create "+s.name(), upstream, ours)
	if upstream.code != http.StatusCreated {
		c.report.add(subject+" seed", s.name(), []string{"upstream refuses the seed: " + brief(upstream.body)})
		return nil
	}
	if ours.code != http.StatusCreated || !slices.Contains(r.Verbs, "get") {
		return nil // reported; nothing to change
	}
	path := r.collection() + "/" + s.name()
	if stages.MatchString("update") {
		if live := c.live(ctx, path); live != nil {
			c.updates(ctx, subject+" update", path, document.mutations(root, live, ""))
		}
	}
	if slices.Contains(r.subresources, "status") && s.status != nil {
		c.status(ctx, subject, path, s, document, root, stages)
	}
	if stages.MatchString("tables") {
		c.tables(ctx, subject+" table", r, s.name())
	}
	c.remove(ctx, subject, path)
	return nil
}

// live is the object as upstream stores it.
func (c *comparison) live(ctx context.Context, path string) map[string]any {
	return c.pair.upstream.sure(ctx, request{method: http.MethodGet, path: path}).object()
}

// creates tries every mutation of a new object.
func (c *comparison) creates(ctx context.Context, subject string, r *apiResource, s *seed, mutations []mutation) {
	object := []byte(jsonOf(s.object))
	c.each(mutations, func(m mutation) {
		patch, err := jsonpatch.DecodePatch(m.patch())
		if err != nil {
			return
		}
		body, err := patch.Apply(object)
		if err != nil {
			return // the mutation does not fit the object; nothing to send
		}
		upstream, ours := c.pair.send(ctx, request{method: http.MethodPost, path: r.collection() + "?dryRun=All&fieldValidation=Warn", body: body})
		c.report.compare(subject+" create", s.name()+": "+m.String(), upstream, ours)
	})
}

// updates tries every mutation of the stored object.
func (c *comparison) updates(ctx context.Context, subject, path string, mutations []mutation) {
	c.each(mutations, func(m mutation) {
		r := request{
			method: http.MethodPatch, path: path + "?dryRun=All", body: m.patch(),
			header: map[string]string{"Content-Type": "application/json-patch+json"},
		}
		upstream, ours := c.pair.send(ctx, r)
		c.report.compare(subject, path[strings.LastIndex(path, "/")+1:]+": "+m.String(), upstream, ours)
	})
}

// status writes the seed's status and then tries every mutation of it, and again those of the spec.
func (c *comparison) status(ctx context.Context, subject, path string, s *seed, document schemas, root *schema, stages *regexp.Regexp) {
	r := request{
		method: http.MethodPatch, path: path + "/status", body: []byte(jsonOf(map[string]any{"status": s.status})),
		header: map[string]string{"Content-Type": "application/merge-patch+json"},
	}
	upstream, ours := c.pair.send(ctx, r)
	c.report.compare(subject+" status", "write the status of "+s.name(), upstream, ours)
	if upstream.code != http.StatusOK {
		c.report.add(subject+" status", s.name(), []string{"upstream refuses the seed's status: " + brief(upstream.body)})
	}
	live := c.live(ctx, path)
	if live == nil {
		return
	}
	if stages.MatchString("update") {
		// What may change can depend on the status: of a claim that is bound, a pod that runs, a job that has ended.
		c.updates(ctx, subject+" update with status", path, document.mutations(root, live, "/spec"))
	}
	if !stages.MatchString("status") {
		return
	}
	mutations := document.mutations(root, live, "/status")
	// What else than the status a write of /status changes: nothing but labels and annotations, of some kinds.
	for _, at := range []string{"/metadata/labels", "/metadata/annotations", "/metadata/finalizers", "/metadata/ownerReferences", "/spec"} {
		mutations = append(mutations, document.mutations(root, live, at)...)
	}
	c.updates(ctx, subject+" status", path+"/status", mutations)
}

// remove deletes the object in both, by force, and compares what they say.
func (c *comparison) remove(ctx context.Context, subject, path string) {
	upstream, ours := c.pair.send(ctx, request{method: http.MethodDelete, path: path + "?dryRun=All", header: map[string]string{"Content-Type": ""}})
	c.report.compare(subject+" delete", "delete "+path, upstream, ours)
	upstream, ours = c.pair.send(ctx, request{
		method: http.MethodDelete, path: path, body: []byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"propagationPolicy":"Background"}`),
	})
	c.report.compare(subject+" delete", "force "+path, upstream, ours)
	unfinished := request{
		method: http.MethodPatch, path: path, body: []byte(`{"metadata":{"finalizers":null}}`), header: map[string]string{"Content-Type": "application/merge-patch+json"},
	}
	c.pair.send(ctx, unfinished) // where a finalizer still holds it; nothing else would let go
}

func (c *comparison) each(mutations []mutation, do func(mutation)) {
	var wait sync.WaitGroup
	next := make(chan mutation)
	for range c.workers {
		wait.Go(func() {
			for m := range next {
				do(m)
			}
		})
	}
	for _, m := range mutations {
		next <- m
	}
	close(next)
	wait.Wait()
}
