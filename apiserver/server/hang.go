package server

import (
	"context"
	"fmt"
	"net"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"keelson.dev/apiserver/kubeletclient"
	"keelson.dev/apiserver/services"
	"keelson.dev/apiserver/subresources"
	"keelson.dev/apiserver/tokens"
)

// hang adds to the stores what rows cannot say, serves the subresources that are no plain part of an object, and starts what
// keeps them.
func (c *config) hang(kinds kinds, served storages, server *genericapiserver.GenericAPIServer) error {
	recording := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.client.EventsV1()})
	kubernetes, allocator, err := c.newServices(kinds, server, recording)
	if err != nil {
		return err
	}
	subresources.HangNamespaces(kinds[corev1.Resource("namespaces")])
	subresources.HangRequests(kinds[certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests").GroupResource()])
	if err := c.newSubresources(kinds, served); err != nil {
		return err
	}
	identity, err := c.newIdentityLease()
	if err != nil {
		return err
	}
	hooks := c.bootHooks()
	hooks = append(hooks,
		hook{"start-kube-apiserver-identity-lease-controller", func(ctx context.Context) error {
			go identity.Run(ctx)
			return c.ensureNamespace(ctx, metav1.NamespaceSystem)
		}},
		hook{"start-service-ip-repair-controllers", func(ctx context.Context) error {
			if err := recording.StartRecordingToSinkWithContext(ctx); err != nil {
				return err
			}
			return allocator.Repair(ctx)
		}},
		hook{"bootstrap-controller", kubernetes.Run},
	)
	if err := addHooks(server, hooks); err != nil {
		return err
	}
	if err := server.AddPostStartHook("storage-readiness", server.StorageReadinessHook.Hook); err != nil {
		return err
	}
	err = server.AddPreShutdownHook("stop-kube-apiserver-endpoints", func() error { return kubernetes.Stop(context.Background()) })
	if err != nil {
		return err
	}
	return server.AddPreShutdownHook("stop-kube-apiserver-identity-lease-controller", func() error {
		identity.Stop() // it deletes the lease
		return nil
	})
}

// newServices sets up the allocation of addresses and ports, and what keeps the service default/kubernetes.
func (c *config) newServices(kinds kinds, server *genericapiserver.GenericAPIServer, recording events.EventBroadcaster) (*services.Kubernetes, *services.Allocator, error) {
	ranges, err := c.rawStorage(server, schema.GroupResource{Resource: "servicenodeportallocations"}, services.RangesPrefix,
		&corev1.RangeAllocation{}, &corev1.RangeAllocation{})
	if err != nil {
		return nil, nil, err
	}
	allocator := services.New(services.Config{
		Services:  kinds[corev1.Resource("services")],
		Addresses: kinds[networkingv1.Resource("ipaddresses")],
		CIDRs:     kinds[networkingv1.Resource("servicecidrs")],
		Ranges:    services.NewRanges(ranges),
		Default:   c.cidrs, NodePorts: c.options.ServiceNodePortRange, Clock: clock.RealClock{},
		AddressEvents: recording.NewRecorder(clientscheme.Scheme, "ipallocator-repair-controller"),
		PortEvents:    recording.NewRecorder(clientscheme.Scheme, "portallocator-repair-controller"),
	})
	_, port, err := c.generic.SecureServing.HostPort()
	if err != nil {
		return nil, nil, fmt.Errorf("find the serving port: %w", err)
	}
	kubernetes := &services.Kubernetes{
		Client: c.client, NodePort: c.options.KubernetesServiceNodePort,
		Address: c.options.Run.AdvertiseAddress, Port: port, CIDRs: c.cidrs,
	}
	first, err := firstServiceIP(c.cidrs[0])
	if err != nil {
		return nil, nil, err
	}
	kubernetes.ServiceIPs = []net.IP{first}
	// A loopback address leads every pod to itself: better no endpoint than that one.
	if c.options.EndpointReconcilerType == "lease" && !c.options.Run.AdvertiseAddress.IsLoopback() {
		if kubernetes.Leases, err = c.rawStorage(server, schema.GroupResource{Resource: "apiServerIPInfo"}, services.LeasePrefix,
			&corev1.Endpoints{}, &corev1.EndpointsList{}); err != nil {
			return nil, nil, err
		}
	}
	return kubernetes, allocator, nil
}

// rawStorage opens the store for what is no API resource: no watch cache, no REST.
func (c *config) rawStorage(server *genericapiserver.GenericAPIServer, gr schema.GroupResource, prefix string, empty, emptyList runtime.Object) (storage.Interface, error) {
	cfg, err := c.factory.NewConfig(gr, nil)
	if err != nil {
		return nil, fmt.Errorf("storage of %s: %w", gr, err)
	}
	opened, destroy, err := c.backend.Open(cfg, empty.DeepCopyObject, emptyList.DeepCopyObject, prefix)
	if err != nil {
		return nil, fmt.Errorf("storage of %s: %w", gr, err)
	}
	server.RegisterDestroyFunc(destroy)
	return opened, nil
}

// newSubresources serves what is no plain part of an object.
func (c *config) newSubresources(kinds kinds, served storages) error {
	o := c.options.Kubelet
	cfg := kubeletclient.Config{
		Nodes:  kinds[corev1.Resource("nodes")].Store,
		CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile, DefaultPort: o.Port, Timeout: o.Timeout,
	}
	for _, t := range o.PreferredAddressTypes {
		cfg.AddressTypes = append(cfg.AddressTypes, corev1.NodeAddressType(t))
	}
	if c.toCluster != nil {
		cfg.Dial = c.toCluster.Dial
	}
	kubelet, err := kubeletclient.New(cfg)
	if err != nil {
		return err
	}
	more := subresources.Storages(subresources.Config{
		Kinds: kinds, Kubelet: kubelet, Slices: c.slices, Dial: cfg.Dial, Checks: c.generic.HealthzChecks,
		Authorizer: c.generic.Authorization.Authorizer, MaxBytesPerSecond: c.options.MaxConnectionBytesPerSec,
	})
	for gv, storages := range more {
		served.add(gv, storages)
	}
	served.add(corev1.SchemeGroupVersion, map[string]rest.Storage{"serviceaccounts/token": c.newTokens(kinds)})
	return nil
}

// newTokens serves issuing service account tokens.
func (c *config) newTokens(kinds kinds) rest.Storage {
	o := c.options.ServiceAccount
	return tokens.NewREST(tokens.RESTConfig{
		Issuer: o.Issuers[0], Signer: c.security.signer, Audiences: c.security.audiences,
		MaxLifetime: c.security.maxTokenLifetime, ExtendExpiration: o.ExtendExpiration,
		ServiceAccounts: kinds[corev1.Resource("serviceaccounts")].Store, Pods: kinds[corev1.Resource("pods")].Store,
		Secrets: kinds[corev1.Resource("secrets")].Store, Nodes: kinds[corev1.Resource("nodes")].Store,
	})
}
