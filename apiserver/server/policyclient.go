package server

import (
	"context"
	"maps"
	"sync"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/tools/cache"
)

// policyClient is the client of the admission plugins. MutatingAdmissionPolicy asks for OpenAPI every five seconds, from the start, and
// refuses what a policy matches while it does not know the kind. Asked of the server, this would have the documents built in every
// cluster, and at the first policy they would come seconds too late. So the built-in kinds are known at once and for good, and for
// all others this client waits until there is a policy.
type policyClient struct {
	kubernetes.Interface
	builtIn map[string]openapi.GroupVersion
	wait    func() error
}

// newPolicyClient returns a client whose OpenAPI has the built-in documents, and those of others from the first object of the informer
// on; then it fails at the end of ctx.
func newPolicyClient(ctx context.Context, client kubernetes.Interface, builtIn map[string]openapi.GroupVersion, policies cache.SharedIndexInformer) (kubernetes.Interface, error) {
	exists := make(chan struct{})
	found := sync.OnceFunc(func() { close(exists) })
	_, err := policies.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { found() }})
	return policyClient{client, builtIn, func() error {
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
	return policyDiscovery{c.Interface.Discovery(), c}
}

type policyDiscovery struct {
	discovery.DiscoveryInterfaces
	client policyClient
}

// OpenAPIV3 implements discovery.DiscoveryInterfaces.
func (d policyDiscovery) OpenAPIV3() openapi.Client {
	return &policyDocuments{all: d.DiscoveryInterfaces.OpenAPIV3(), client: d.client}
}

type policyDocuments struct {
	all    openapi.Client
	client policyClient
	asked  bool
}

// Paths implements openapi.Client. It is not for several goroutines.
func (d *policyDocuments) Paths() (map[string]openapi.GroupVersion, error) {
	if !d.asked {
		d.asked = true
		return d.client.builtIn, nil
	}
	if err := d.client.wait(); err != nil {
		return nil, err
	}
	paths, err := d.all.Paths()
	if err != nil {
		return nil, err
	}
	maps.Copy(paths, d.client.builtIn)
	return paths, nil
}
