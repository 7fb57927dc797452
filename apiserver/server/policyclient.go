package server

import (
	"context"
	"sync"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/tools/cache"
)

// policyClient is the client of the admission plugins. MutatingAdmissionPolicy asks for OpenAPI every minute, from the start, which
// would have the documents built in every cluster; with this client it waits until there is a policy that needs them.
type policyClient struct {
	kubernetes.Interface
	wait func() error
}

// newPolicyClient returns a client whose OpenAPI waits for the first object of the informer, or fails at the end of ctx.
func newPolicyClient(ctx context.Context, client kubernetes.Interface, policies cache.SharedIndexInformer) (kubernetes.Interface, error) {
	exists := make(chan struct{})
	found := sync.OnceFunc(func() { close(exists) })
	_, err := policies.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { found() }})
	return policyClient{client, func() error {
		select {
		case <-exists:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}, err
}

// Discovery implements kubernetes.Interface.
func (c policyClient) Discovery() discovery.DiscoveryInterfaces {
	return policyDiscovery{c.Interface.Discovery(), c.wait}
}

type policyDiscovery struct {
	discovery.DiscoveryInterfaces
	wait func() error
}

// OpenAPIV3 implements discovery.DiscoveryInterfaces.
func (d policyDiscovery) OpenAPIV3() openapi.Client {
	return policyDocuments{d.DiscoveryInterfaces.OpenAPIV3(), d.wait}
}

type policyDocuments struct {
	openapi.Client
	wait func() error
}

// Paths implements openapi.Client.
func (d policyDocuments) Paths() (map[string]openapi.GroupVersion, error) {
	if err := d.wait(); err != nil {
		return nil, err
	}
	return d.Client.Paths()
}
