package server

import (
	"context"
	"fmt"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"

	"keelson.dev/apis"
	"keelson.dev/apis/resource"
	"keelson.dev/apiserver/admission"
	"keelson.dev/apiserver/authorization"
	"keelson.dev/apiserver/storage"
	"keelson.dev/apiserver/subresources"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/quota"
)

// config is everything that the three servers of the chain are built from.
type config struct {
	options *Options
	cidrs   []*net.IPNet

	scheme  *runtime.Scheme
	codecs  serializer.CodecFactory
	rows    []*resource.Resource
	openAPI openAPI

	generic   *genericapiserver.Config
	factory   *serverstorage.DefaultStorageFactory
	backend   *storage.Backend // nil where etcd runs elsewhere
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	slices    proxy.EndpointSliceGetter
	resolver  aggregatorapiserver.ServiceResolver
	authInfo  webhook.AuthenticationInfoResolverWrapper
	toCluster *transport.DialHolder // to nodes, pods and services; nil connects directly
	security  *security
}

// newConfig reads the options. Storage is described by it, not yet opened: etcd may still be starting.
func newConfig(ctx context.Context, o *Options) (*config, error) {
	c := &config{options: o, scheme: apis.NewScheme(), rows: apis.All(), openAPI: newOpenAPI()}
	c.codecs = apis.NewCodecs(c.scheme)
	err := subresources.Register(c.scheme)
	if err != nil {
		return nil, err
	}
	if c.cidrs, err = o.serviceCIDRs(); err != nil {
		return nil, err
	}
	if err := c.applyServing(); err != nil {
		return nil, err
	}
	if err := c.applyClients(); err != nil {
		return nil, err
	}
	if err := c.applyStorage(); err != nil {
		return nil, err
	}
	if c.security, err = newSecurity(ctx, c); err != nil {
		return nil, err
	}
	if err := c.applyAdmission(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// applyServing makes the generic configuration and opens the listener.
func (c *config) applyServing() error {
	o := c.options
	c.generic = genericapiserver.NewConfig(c.codecs)
	c.generic.BuildHandlerChainFunc = roomyChain
	if o.Listener != nil {
		o.Serving.Listener = o.Listener
	}
	if err := o.Run.DefaultAdvertiseAddress(o.Serving); err != nil {
		return fmt.Errorf("find the address to advertise: %w", err)
	}
	if err := o.Run.ApplyTo(c.generic); err != nil {
		return fmt.Errorf("apply server options: %w", err)
	}
	c.applyMetrics()
	c.generic.Flagz = o.Flagz
	c.generic.EffectiveVersion = effectiveVersion{c.generic.EffectiveVersion}
	if o.ServerID != "" {
		c.generic.APIServerID = o.ServerID
	}
	if err := c.ensureServingCertificate(); err != nil {
		return err
	}
	if err := o.Serving.ApplyTo(&c.generic.SecureServing); err != nil {
		return fmt.Errorf("apply serving options: %w", err)
	}
	if err := c.applyLoopback(); err != nil {
		return err
	}
	if err := c.applyEgress(); err != nil {
		return err
	}
	if err := c.applyAudit(); err != nil {
		return fmt.Errorf("apply audit options: %w", err)
	}
	if err := o.Tracing.ApplyTo(c.generic.EgressSelector, c.generic); err != nil {
		return fmt.Errorf("apply tracing options: %w", err)
	}
	c.openAPI.apply(c.generic)
	// One document for all three servers of the chain.
	c.generic.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	c.generic.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	return nil
}

// applyEgress has the server connect through proxies, where a file says so.
func (c *config) applyEgress() error {
	if c.options.Egress.ConfigFile == "" {
		return nil
	}
	if err := c.options.Egress.ApplyTo(c.generic); err != nil {
		return fmt.Errorf("apply egress options: %w", err)
	}
	etcd := &c.options.Etcd.StorageConfig.Transport
	if !slices.Contains(etcd.ServerList, storage.Endpoint(c.options.Embedded)) { // that one is a socket in this process
		etcd.EgressLookup = c.generic.EgressSelector.Lookup
	}
	dial, err := c.dialer(egressselector.Cluster)
	if dial != nil {
		c.toCluster = &transport.DialHolder{Dial: dial}
	}
	return err
}

// dialer connects to a network as the egress configuration says; nil connects directly.
func (c *config) dialer(network egressselector.EgressType) (utilnet.DialFunc, error) {
	if c.generic.EgressSelector == nil {
		return nil, nil
	}
	dial, err := c.generic.EgressSelector.Lookup(network.AsNetworkContext())
	if err != nil {
		return nil, fmt.Errorf("look up egress: %w", err)
	}
	return dial, nil
}

// ensureServingCertificate makes a self-signed certificate in memory when none is given.
func (c *config) ensureServingCertificate() error {
	first, err := firstServiceIP(c.cidrs[0])
	if err != nil {
		return err
	}
	names := []string{"kubernetes.default.svc", "kubernetes.default", "kubernetes", "localhost"}
	public := c.options.Run.AdvertiseAddress.String()
	if err := c.options.Serving.MaybeDefaultWithSelfSignedCerts(public, names, []net.IP{first, net.IPv4(127, 0, 0, 1)}); err != nil {
		return fmt.Errorf("make a serving certificate: %w", err)
	}
	return nil
}

// applyClients makes the client for this server's own use, its informers, and what depends on them.
func (c *config) applyClients() error {
	loopback := apiclient.Config(c.generic.LoopbackClientConfig, "apiserver")
	loopback.DisableCompression = true
	loopback.WarningHandlerWithContext = rest.NoWarnings{} // this server knows which of its own kinds are deprecated
	c.generic.LoopbackClientConfig = loopback
	var err error
	if c.client, err = apiclient.Clientset(loopback); err != nil {
		return err
	}
	c.informers = informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTransform(authorization.Transform))
	if err := c.options.Features.ApplyTo(c.generic, c.client, c.informers); err != nil {
		return fmt.Errorf("apply feature options: %w", err)
	}
	if c.resolver, err = c.newServiceResolver(); err != nil {
		return err
	}
	c.authInfo = webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, c.generic.EgressSelector, loopback, c.generic.TracerProvider)
	return nil
}

func (c *config) newServiceResolver() (aggregatorapiserver.ServiceResolver, error) {
	services := c.informers.Core().V1().Services().Lister()
	var err error
	if c.slices, err = proxy.NewEndpointSliceIndexerGetter(c.informers.Discovery().V1().EndpointSlices()); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	resolver := aggregatorapiserver.NewClusterIPServiceResolver(services)
	if c.options.Proxy.EndpointRouting {
		resolver = aggregatorapiserver.NewEndpointServiceResolver(services, c.slices)
	}
	return aggregatorapiserver.NewLoopbackServiceResolver(resolver, loopbackURL(c.generic.LoopbackClientConfig.Host)), nil
}

// applyStorage describes the storage of every kind and which versions are served.
func (c *config) applyStorage() error {
	o := c.options
	enabled := serverstorage.NewResourceConfig()
	for _, group := range apis.Groups() {
		for _, version := range group.Versions {
			enabled.EnableVersions(version.GroupVersion)
		}
	}
	if err := o.APIs.ApplyTo(c.generic, enabled, c.scheme); err != nil {
		return fmt.Errorf("apply --runtime-config: %w", err)
	}
	o.Etcd.StorageConfig.StorageObjectCountTracker = c.generic.StorageObjectCountTracker
	o.Etcd.StorageConfig.Transport.TracerProvider = c.generic.TracerProvider
	c.factory = storage.NewFactory(c.rows, c.scheme, c.codecs, o.Etcd.StorageConfig, c.generic.MergedResourceConfig)
	if err := storage.SetOverrides(c.factory, o.Etcd.EtcdServersOverrides); err != nil {
		return err
	}
	if err := o.Etcd.ApplyWithStorageFactoryTo(c.factory, c.generic); err != nil {
		return fmt.Errorf("apply etcd options: %w", err)
	}
	return nil
}

// applyAdmission builds the admission chain; its plugins wait for the informers when the first write comes.
func (c *config) applyAdmission(ctx context.Context) error {
	if err := admission.Only(c.options.Admission, c.options.AdmissionControl); err != nil {
		return err
	}
	dynamicClient, err := dynamic.NewForConfig(c.generic.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("build dynamic client: %w", err)
	}
	initializers, err := admission.Initializers(admission.InitializerConfig{
		ServiceResolver: c.resolver,
		AuthInfo:        c.authInfo,
		Schemas:         &lazySchemas{openAPI: c.openAPI, discovery: c.client.Discovery()},
		Excluded:        admission.DefaultExcluded(),
		Devices:         c.devices(ctx),
	})
	if err != nil {
		return fmt.Errorf("prepare admission plugins: %w", err)
	}
	client, err := newPolicyClient(ctx, c.client, c.openAPI.documents(), c.informers.Admissionregistration().V1().MutatingAdmissionPolicies().Informer())
	if err != nil {
		return fmt.Errorf("watch admission policies: %w", err)
	}
	err = c.options.Admission.ApplyTo(c.generic, c.informers, client, dynamicClient, c.generic.FeatureGate, c.generic.EffectiveVersion, initializers...)
	if err != nil {
		return fmt.Errorf("build the admission chain: %w", err)
	}
	return nil
}

// devices reads what quotas ask about devices. Pods and claims are read live: that is once for a pod with a claim for extended resources.
func (c *config) devices(ctx context.Context) quota.Devices {
	if !c.enabled(resourcev1.SchemeGroupVersion) {
		return quota.Devices{}
	}
	classes := c.informers.Resource().V1().DeviceClasses().Lister()
	return quota.Devices{
		Classes: func() []*resourcev1.DeviceClass {
			list, _ := classes.List(labels.Everything()) // it never fails
			return list
		},
		Pod: func(namespace, name string) *corev1.Pod {
			pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return nil
			}
			return pod
		},
		Claims: func(namespace string) []*resourcev1.ResourceClaim {
			list, err := c.client.ResourceV1().ResourceClaims(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil
			}
			return pointers(list.Items)
		},
	}
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// enabled tells whether a group version is served.
func (c *config) enabled(gv schema.GroupVersion) bool {
	return c.generic.MergedResourceConfig.GroupVersionConfigs[gv]
}

// servedVersions are the enabled versions of a kind.
func (c *config) servedVersions(row *resource.Resource) []schema.GroupVersion {
	return slices.DeleteFunc(apis.ServedVersions(row), func(gv schema.GroupVersion) bool {
		return !c.generic.MergedResourceConfig.ResourceEnabled(gv.WithResource(row.Plural))
	})
}
