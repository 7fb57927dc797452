package server

import (
	"context"
	"fmt"
	"net/url"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
)

// newChain builds the three servers, last first: a request goes to the aggregation layer, which sends what an APIService claims
// elsewhere, then to the built-in kinds, then to custom resources, then 404.
func (c *config) newChain(ctx context.Context) (*aggregatorapiserver.APIAggregator, error) {
	notFound := notfoundhandler.New(c.generic.Serializer, genericapifilters.NoMuxAndDiscoveryIncompleteKey)
	extensions, err := c.newExtensions(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, err
	}
	core, err := c.newCore(extensions.GenericAPIServer) //nolint:contextcheck // hooks get theirs from the server
	if err != nil {
		return nil, err
	}
	c.publishCore(core)
	aggregator, err := c.newAggregator(core, extensions) //nolint:contextcheck // hooks get theirs from the server
	if err != nil {
		return nil, err
	}
	if err := c.publish(ctx, aggregator); err != nil {
		return nil, fmt.Errorf("publish OpenAPI: %w", err)
	}
	// The models of server-side apply are made from the definitions by now; who needs them later builds them.
	c.generic.OpenAPIV3Config.Definitions = nil
	return aggregator, nil
}

// library derives the configuration of a server that comes from a library with a scheme of its own. The hooks of the generic
// configuration stay with the core server.
func (c *config) library(codec runtime.Codec, group schema.GroupVersion) (genericapiserver.Config, *genericoptions.EtcdOptions) {
	generic := *c.generic
	generic.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	generic.ResourceTransformers = c.generic.ResourceTransformers
	etcd := *c.options.Etcd
	etcd.StorageConfig.Codec = codec
	etcd.StorageConfig.EncodeVersioner = runtime.NewMultiGroupVersioner(group, schema.GroupKind{Group: group.Group})
	etcd.SkipHealthEndpoints = true
	generic.RESTOptionsGetter = c.backend.Getter(etcd.CreateRESTOptionsGetter(
		&genericoptions.SimpleStorageFactory{StorageConfig: etcd.StorageConfig}, generic.ResourceTransformers))
	return generic, &etcd
}

func (c *config) newExtensions(delegate genericapiserver.DelegationTarget) (*apiextensionsserver.CustomResourceDefinitions, error) {
	generic, etcd := c.library(apiextensionsserver.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion), apiextensionsv1.SchemeGroupVersion)
	generic.MergedResourceConfig = apiextensionsserver.DefaultAPIResourceConfigSource()
	c.openAPI.ofExtensions(&generic)
	cfg := &apiextensionsserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: generic, SharedInformerFactory: c.informers},
		ExtraConfig: apiextensionsserver.ExtraConfig{
			CRDRESTOptionsGetter: c.backend.Getter(apiextensionsoptions.NewCRDRESTOptionsGetter(*etcd, generic.ResourceTransformers, generic.StorageObjectCountTracker)),
			MasterCount:          1,
			ServiceResolver:      c.resolver,
			AuthResolverWrapper:  c.authInfo,
		},
	}
	server, err := cfg.Complete().New(delegate)
	if err != nil {
		return nil, fmt.Errorf("build the server of custom resources: %w", err)
	}
	return server, nil
}

// loopbackURL is where this server is reached from itself.
func loopbackURL(host string) *url.URL {
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		u = &url.URL{Scheme: "https", Host: host}
	}
	return u
}
