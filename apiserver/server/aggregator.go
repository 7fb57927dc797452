package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"

	"keelson.dev/apis"
)

func (c *config) newAggregator(core *genericapiserver.GenericAPIServer, extensions *apiextensionsserver.CustomResourceDefinitions) (*aggregatorapiserver.APIAggregator, error) {
	generic, _ := c.library(aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion), apiregistrationv1.SchemeGroupVersion)
	generic.MergedResourceConfig = aggregatorapiserver.DefaultAPIResourceConfigSource()
	// The core server has installed its own OpenAPI; the aggregator publishes the merged one.
	generic.SkipOpenAPIInstallation = true
	cfg := &aggregatorapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: generic, SharedInformerFactory: c.informers},
		ExtraConfig: aggregatorapiserver.ExtraConfig{
			ProxyClientCertFile:       c.options.Proxy.ClientCertFile,
			ProxyClientKeyFile:        c.options.Proxy.ClientKeyFile,
			ServiceResolver:           c.resolver,
			RejectForwardingRedirects: c.options.Proxy.RejectRedirects,
		},
	}
	aggregator, err := cfg.Complete().NewWithDelegate(core)
	if err != nil {
		return nil, fmt.Errorf("build the aggregation layer: %w", err)
	}
	client, err := aggregatorclient.NewForConfig(generic.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("build the aggregation layer's client: %w", err)
	}
	informer := aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices()
	controller := autoregister.NewAutoRegisterController(informer, client.ApiregistrationV1())
	local := localAPIServices(core.ListedPaths())
	for _, service := range local {
		controller.AddAPIServiceToSyncOnStart(service)
	}
	custom := newCustomGroups(extensions, controller)
	err = aggregator.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(ctx genericapiserver.PostStartHookContext) error {
		go custom.run(ctx)
		go func() {
			if custom.waitSynced(ctx) { // else the controller would remove the APIServices of custom groups
				controller.Run(5, ctx.Done())
			}
		}()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("register API services: %w", err)
	}
	check := registered(local, informer.Lister().Get)
	if err := aggregator.GenericAPIServer.AddBootSequenceHealthChecks(check); err != nil {
		return nil, fmt.Errorf("register API services: %w", err)
	}
	return aggregator, nil
}

// registered is a health check: every built-in group version has its APIService, and it is available. Until then clients would
// see a part of the API only.
func registered(want []*apiregistrationv1.APIService, get func(string) (*apiregistrationv1.APIService, error)) healthz.HealthChecker {
	return healthz.NamedCheck("autoregister-completion", func(*http.Request) error {
		var missing []string
		for _, service := range want {
			found, err := get(service.Name)
			if err != nil || !available(found) {
				missing = append(missing, service.Name)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("missing APIService: %v", missing)
		}
		return nil
	})
}

func available(service *apiregistrationv1.APIService) bool {
	return slices.ContainsFunc(service.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
		return c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue
	})
}

// localAPIServices gives every group version below the listed paths its APIService.
func localAPIServices(paths []string) []*apiregistrationv1.APIService {
	priorities := groupPriorities()
	var services []*apiregistrationv1.APIService
	for _, path := range paths {
		gv, ok := groupVersionOfPath(path)
		if !ok {
			continue
		}
		priority, ok := priorities[gv]
		if !ok {
			continue
		}
		services = append(services, newAPIService(gv, priority))
	}
	return services
}

func groupVersionOfPath(path string) (schema.GroupVersion, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) == 2 && parts[0] == "api":
		return schema.GroupVersion{Version: parts[1]}, true
	case len(parts) == 3 && parts[0] == "apis":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}, true
	}
	return schema.GroupVersion{}, false
}

// priority orders discovery: groups by the first number, versions of a group by the second, both downwards.
type priority struct{ group, version int32 }

// groupPriorities are upstream's numbers: tools order by them.
func groupPriorities() map[schema.GroupVersion]priority {
	priorities := map[schema.GroupVersion]priority{apiextensionsv1.SchemeGroupVersion: {16700, 15}}
	for _, group := range apis.Groups() {
		for _, version := range group.Versions {
			if group.Priority != 0 {
				priorities[version.GroupVersion] = priority{group.Priority, versionPriority(version.GroupVersion)}
			}
		}
	}
	return priorities
}

func versionPriority(version schema.GroupVersion) int32 {
	switch version {
	case corev1.SchemeGroupVersion:
		return 1
	case flowcontrolv1.SchemeGroupVersion, resourcev1.SchemeGroupVersion:
		return 21
	case autoscalingv2.SchemeGroupVersion:
		return 30
	}
	return 15
}

func newAPIService(gv schema.GroupVersion, p priority) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version,
		},
	}
}

// customGroups keeps an APIService for every served group version of the CustomResourceDefinitions.
type customGroups struct {
	definitions cache.SharedIndexInformer
	services    autoregister.AutoAPIServiceRegistration
	synced      chan struct{}

	mu    sync.Mutex
	known map[schema.GroupVersion]bool
}

func newCustomGroups(extensions *apiextensionsserver.CustomResourceDefinitions, services autoregister.AutoAPIServiceRegistration) *customGroups {
	return &customGroups{
		definitions: extensions.Informers.Apiextensions().V1().CustomResourceDefinitions().Informer(),
		services:    services,
		synced:      make(chan struct{}),
		known:       map[schema.GroupVersion]bool{},
	}
}

func (c *customGroups) run(ctx context.Context) {
	registration, err := c.definitions.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.reconcile() },
		UpdateFunc: func(any, any) { c.reconcile() },
		DeleteFunc: func(any) { c.reconcile() },
	})
	if err != nil { // only after the informer was stopped
		return
	}
	if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		c.reconcile()
		close(c.synced)
	}
}

func (c *customGroups) waitSynced(ctx context.Context) bool {
	select {
	case <-c.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// reconcile adds and removes APIServices. It looks at all definitions: group versions are shared between them, and definitions
// change seldom.
func (c *customGroups) reconcile() {
	want := map[schema.GroupVersion]bool{}
	for _, obj := range c.definitions.GetStore().List() {
		crd := obj.(*apiextensionsv1.CustomResourceDefinition)
		for _, version := range crd.Spec.Versions {
			if version.Served {
				want[schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name}] = true
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for gv := range c.known {
		if !want[gv] {
			c.services.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
		}
	}
	for gv := range want {
		c.services.AddAPIServiceToSync(newAPIService(gv, priority{1000, 100}))
	}
	c.known = want
}
