package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	openapicontroller "k8s.io/kube-aggregator/pkg/controllers/openapi"
	openapiaggregator "k8s.io/kube-aggregator/pkg/controllers/openapi/aggregator"
	openapiv3controller "k8s.io/kube-aggregator/pkg/controllers/openapiv3"
	openapiv3aggregator "k8s.io/kube-aggregator/pkg/controllers/openapiv3/aggregator"
)

// The OpenAPI documents are large, and much of the time nobody asks for them: they are built at the first request. The library
// would build them at the start, which takes a third of its CPU time and half of the memory of an idle server.

// lazy builds what it serves at the first request.
type lazy struct {
	name  string
	build func(*mux.PathRecorderMux) error

	once   sync.Once
	built  *mux.PathRecorderMux
	failed atomic.Pointer[error]
}

// ServeHTTP implements http.Handler.
func (l *lazy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.once.Do(func() { //nolint:contextcheck // what is built outlives the request
		l.built = mux.NewPathRecorderMux(l.name)
		if err := l.build(l.built); err != nil {
			l.failed.Store(&err)
			klog.FromContext(r.Context()).Error(err, "Could not build OpenAPI", "document", l.name)
		}
	})
	if err := l.healthy(r); err != nil {
		http.Error(w, "OpenAPI cannot be built: "+err.Error(), http.StatusInternalServerError)
		return
	}
	l.built.ServeHTTP(w, r)
}

// healthy fails once the documents could not be built; that they have not been asked for yet is no failure.
func (l *lazy) healthy(*http.Request) error {
	if failed := l.failed.Load(); failed != nil {
		return *failed
	}
	return nil
}

// handleOpenAPI serves the documents of both versions.
func handleOpenAPI(to *mux.PathRecorderMux, v2, v3 func(*mux.PathRecorderMux) error) (second, third *lazy) {
	second, third = &lazy{name: "openapi/v2", build: v2}, &lazy{name: "openapi/v3", build: v3}
	to.Handle("/openapi/v2", second)
	to.Handle("/openapi/v3", third)
	to.UnlistedHandlePrefix("/openapi/v3/", third)
	return second, third
}

// publishCore serves the documents of the built-in kinds to the aggregation layer.
func (c *config) publishCore(server *genericapiserver.GenericAPIServer) {
	container := server.Handler.GoRestfulContainer
	handleOpenAPI(server.Handler.NonGoRestfulMux,
		func(m *mux.PathRecorderMux) error {
			routes.OpenAPI{Config: c.generic.OpenAPIConfig}.InstallV2(container, m)
			return nil
		},
		func(m *mux.PathRecorderMux) error {
			routes.OpenAPI{V3Config: c.generic.OpenAPIV3Config}.InstallV3(container, m)
			return nil
		})
}

// publish serves the documents of everything: built-in kinds, custom resources and aggregated servers. ctx is the server's life. Their health
// checks have the names of upstream's hooks that start the controllers.
func (c *config) publish(ctx context.Context, aggregator *aggregatorapiserver.APIAggregator) error {
	server := aggregator.GenericAPIServer
	services := aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices().Informer()
	container := server.Handler.GoRestfulContainer
	second, third := handleOpenAPI(server.Handler.NonGoRestfulMux,
		func(m *mux.PathRecorderMux) error {
			downloader := openapiaggregator.NewDownloader()
			merged, err := openapiaggregator.BuildAndRegisterAggregator(&downloader, server.NextDelegate(), container.RegisteredWebServices(), c.generic.OpenAPIConfig, m)
			if err != nil {
				return err
			}
			controller := openapicontroller.NewAggregationController(&downloader, merged)
			go controller.RunWithContext(ctx)
			return c.follow(services, controller)
		},
		func(m *mux.PathRecorderMux) error {
			merged, err := openapiv3aggregator.BuildAndRegisterAggregator(openapiv3aggregator.NewDownloader(), server.NextDelegate(), container, c.generic.OpenAPIV3Config, m)
			if err != nil {
				return err
			}
			controller := openapiv3controller.NewAggregationController(merged)
			go controller.RunWithContext(ctx)
			return c.follow(services, controller)
		})
	return server.AddHealthChecks(
		healthz.NamedCheck("poststarthook/apiservice-openapi-controller", second.healthy),
		healthz.NamedCheck("poststarthook/apiservice-openapiv3-controller", third.healthy))
}

// follower downloads the documents of aggregated servers.
type follower interface {
	AddAPIService(handler http.Handler, service *apiregistrationv1.APIService)
	UpdateAPIService(handler http.Handler, service *apiregistrationv1.APIService)
	RemoveAPIService(name string)
}

// follow tells the follower of every APIService, now and later.
func (c *config) follow(services cache.SharedIndexInformer, f follower) error {
	_, err := services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			service := obj.(*apiregistrationv1.APIService)
			f.AddAPIService(c.documentsOf(service), service)
		},
		UpdateFunc: func(_, obj any) {
			service := obj.(*apiregistrationv1.APIService)
			f.UpdateAPIService(c.documentsOf(service), service)
		},
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				f.RemoveAPIService(key)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch API services: %w", err)
	}
	return nil
}

// documentsOf reaches the server behind an APIService as the aggregation layer; nil for a local one, whose documents come with
// the delegate's.
func (c *config) documentsOf(service *apiregistrationv1.APIService) http.Handler {
	ref := service.Spec.Service
	if ref == nil {
		return nil
	}
	port := int32(443)
	if ref.Port != nil {
		port = *ref.Port
	}
	config := &transport.Config{DialHolder: c.toCluster, TLS: transport.TLSConfig{
		CAData: service.Spec.CABundle, Insecure: service.Spec.InsecureSkipTLSVerify, ServerName: ref.Name + "." + ref.Namespace + ".svc",
		CertFile: c.options.Proxy.ClientCertFile, KeyFile: c.options.Proxy.ClientKeyFile, ReloadTLSFiles: true,
	}}
	plain, err := transport.New(config)
	if err != nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		})
	}
	as := transport.NewAuthProxyRoundTripper("system:aggregator", "", []string{user.SystemPrivilegedGroup, user.AllAuthenticated}, nil, plain)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		location, err := c.resolver.ResolveEndpoint(ref.Namespace, ref.Name, port)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		proxy := &httputil.ReverseProxy{Transport: as, Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(location) }}
		proxy.ServeHTTP(w, r)
	})
}
