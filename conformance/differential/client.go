package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// client is one of the two API servers.
type client struct {
	name, base string
	http       *http.Client
}

func newClient(name, base string) *client {
	transport := &http.Transport{
		// The servers make their own certificates, and both are on the loopback.
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec
		MaxIdleConnsPerHost: 16,
	}
	return &client{name: name, base: base, http: &http.Client{Transport: transport, Timeout: time.Minute}}
}

// pair is upstream and ours.
type pair struct{ upstream, ours *client }

// request is what both are sent.
type request struct {
	method, path string
	body         []byte
	header       map[string]string // besides the usual ones
}

// answer is what one said.
type answer struct {
	code     int
	warnings []string
	kind     string // Content-Type
	body     []byte
}

// object decodes the body; nil if it is no JSON object.
func (a *answer) object() map[string]any {
	var out map[string]any
	if json.Unmarshal(a.body, &out) != nil {
		return nil
	}
	return out
}

func (c *client) send(ctx context.Context, r request) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "differential/v1")
	for name, value := range r.header {
		if req.Header.Set(name, value); value == "" {
			req.Header.Del(name)
		}
	}
	response, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %s %s: %w", c.name, r.method, r.path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %s %s: %w", c.name, r.method, r.path, err)
	}
	return &answer{code: response.StatusCode, warnings: response.Header.Values("Warning"), kind: response.Header.Get("Content-Type"), body: body}, nil
}

// send asks both at the same time. An answer that does not come is an error of the server's and counts as code 0.
func (p pair) send(ctx context.Context, r request) (upstream, ours *answer) {
	var wait sync.WaitGroup
	wait.Go(func() { upstream = p.upstream.sure(ctx, r) })
	wait.Go(func() { ours = p.ours.sure(ctx, r) })
	wait.Wait()
	return upstream, ours
}

func (c *client) sure(ctx context.Context, r request) *answer {
	a, err := c.send(ctx, r)
	if err != nil {
		return &answer{body: []byte(err.Error())}
	}
	return a
}
