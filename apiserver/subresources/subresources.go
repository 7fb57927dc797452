// Package subresources serves what is no plain part of a stored object: binding and evicting pods, streams to and from their
// containers, proxies to pods, services and nodes, the end of namespaces, and the approval of certificates.
package subresources

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/util/proxy"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"keelson.dev/apiserver/kubeletclient"
	"keelson.dev/apiserver/registry"
)

// Config is what the subresources stand on.
type Config struct {
	Kinds   map[schema.GroupResource]*registry.Kind
	Kubelet *kubeletclient.Client
	// Slices finds the endpoints of services for their proxy.
	Slices proxy.EndpointSliceGetter
	// Authorizer decides which verb of a proxied node path a user may use.
	Authorizer authorizer.UnconditionalAuthorizer
	// Dial connects to pods, services and nodes; nil connects directly.
	Dial utilnet.DialFunc
	// Checks are the server's own health checks: componentstatuses tells that of etcd.
	Checks []healthz.HealthChecker
	// MaxBytesPerSecond limits each stream; 0 is no limit.
	MaxBytesPerSecond int64
}

// Storages lists the subresources by group version. Those of kinds that are not served are left out.
func Storages(c Config) map[schema.GroupVersion]map[string]rest.Storage {
	pods := c.Kinds[corev1.Resource("pods")]
	services := c.Kinds[corev1.Resource("services")]
	namespaces := c.Kinds[corev1.Resource("namespaces")]
	served := map[schema.GroupVersion]map[string]rest.Storage{
		corev1.SchemeGroupVersion: {
			"bindings":                 &legacyBinding{&binding{pods}},
			"pods/binding":             &binding{pods},
			"pods/eviction":            &eviction{pods: pods, budgets: c.Kinds[policyv1.Resource("poddisruptionbudgets")]},
			"pods/log":                 &log{pods: pods, kubelet: c.Kubelet},
			"pods/exec":                &stream[*corev1.PodExecOptions]{c: c, pods: pods, locate: locateExec, translate: translateExec},
			"pods/attach":              &stream[*corev1.PodAttachOptions]{c: c, pods: pods, locate: locateAttach, translate: translateAttach},
			"pods/portforward":         &stream[*corev1.PodPortForwardOptions]{c: c, pods: pods, locate: locatePortForward, tunnel: true},
			"pods/proxy":               newPodProxy(c, pods),
			"pods/ephemeralcontainers": ephemeralContainers(pods),
			"pods/resize":              resize(pods),
			"nodes/proxy":              newNodeProxy(c),
			"services/proxy":           newServiceProxy(c, services),
			"namespaces":               newNamespace(namespaces),
			"namespaces/finalize":      finalize(namespaces),
			"componentstatuses":        newComponentStatuses(c.Checks),
		},
	}
	if requests, ok := c.Kinds[certificatesv1.Resource("certificatesigningrequests")]; ok {
		served[certificatesv1.SchemeGroupVersion] = map[string]rest.Storage{
			"certificatesigningrequests/approval": approval(requests),
		}
	}
	return served
}
