// Package apiclient builds the API clients of every component. There is no other place where clients are made: what must hold
// for each request of a component (its user agent, its content type, later the cause of a write) is decided here.
package apiclient

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/component-base/version"
)

// Config returns a copy of base for the named component: its user agent, protobuf on the wire, and no client-side rate limit,
// since the API server's priority and fairness decides who waits.
func Config(base *rest.Config, component string) *rest.Config {
	cfg := rest.CopyConfig(base)
	cfg.UserAgent = userAgent(component) + "/" + version.Get().GitVersion
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.DisableCompression = true // a watch would be compressed event by event, for each client
	cfg.QPS = -1
	cfg.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	return cfg
}

// userAgent is the component's name upstream, if it has one: it stands in managedFields and in audit logs, and tools that leave a
// manager's fields alone go by it.
func userAgent(component string) string {
	switch component {
	case "controller-manager":
		return "kube-controller-manager"
	case "scheduler":
		return "kube-scheduler"
	case "kubelet-lite":
		return "kubelet"
	case "proxy-lite":
		return "kube-proxy"
	}
	return "keelson-" + component
}

// FromKubeconfig reads the current context of a kubeconfig file for the named component.
func FromKubeconfig(path, component string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return Config(cfg, component), nil
}

// Clientset returns a typed client for a config made by Config or FromKubeconfig. All clients of one config share one
// connection pool.
func Clientset(cfg *rest.Config) (kubernetes.Interface, error) {
	transport, err := HTTPClient(cfg)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfigAndClient(cfg, transport)
	if err != nil {
		return nil, fmt.Errorf("build API client: %w", err)
	}
	return client, nil
}

// HTTPClient returns the HTTP client of a config, for dynamic, metadata and REST clients that share its connections.
func HTTPClient(cfg *rest.Config) (*http.Client, error) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("build API transport: %w", err)
	}
	return client, nil
}

// Bounded lets n requests of a client at a time be under way, watches apart, and makes the others wait: a server takes so many streams
// over one connection, and for each that is too many another connection is made. It is a transport.WrapperFunc.
func Bounded(n int) func(http.RoundTripper) http.RoundTripper {
	slots := make(chan struct{}, n)
	return func(next http.RoundTripper) http.RoundTripper { return bounded{next, slots} }
}

type bounded struct {
	next  http.RoundTripper
	slots chan struct{}
}

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.Contains(req.URL.RawQuery, "watch=") {
		return b.next.RoundTrip(req)
	}
	select {
	case b.slots <- struct{}{}:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	defer func() { <-b.slots }()
	return b.next.RoundTrip(req)
}
