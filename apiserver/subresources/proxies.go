package subresources

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	serviceproxy "k8s.io/apiserver/pkg/util/proxy"

	"keelson.dev/apiserver/registry"
)

// target is where a proxied request goes.
type target struct {
	location  *url.URL
	transport http.RoundTripper
}

// httpProxy forwards requests of any method to what a name stands for.
type httpProxy struct {
	options  func() runtime.Object
	path     func(runtime.Object) (string, bool)
	locate   func(ctx context.Context, id string) (target, error)
	maxBytes int64
}

var _ rest.Connecter = &httpProxy{}

// New implements rest.Storage: the kind of the subresource, as discovery and admission see it, is that of its options.
func (p *httpProxy) New() runtime.Object { return p.options() }

// Destroy implements rest.Storage.
func (p *httpProxy) Destroy() {}

// ConnectMethods implements rest.Connecter.
func (p *httpProxy) ConnectMethods() []string {
	return []string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}
}

// NewConnectOptions implements rest.Connecter: the rest of the path is a parameter.
func (p *httpProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return p.options(), true, "path"
}

// Connect implements rest.Connecter.
func (p *httpProxy) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	path, ok := p.path(options)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	to, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	to.location.Path = utilnet.JoinPreservingTrailingSlash(to.location.Path, path)
	// Wrapped: links in pages are rewritten to lead through the proxy again, and X-Forwarded headers are set.
	handler := proxy.NewUpgradeAwareHandler(to.location, to.transport, true, false, proxy.NewErrorResponder(responder))
	handler.MaxBytesPerSec = p.maxBytes
	return handler, nil
}

// newBackendTransport reaches pods, services and foreign ports of nodes. Their certificates, if any, are their own: nothing that
// this server knows signs them.
func newBackendTransport(dial utilnet.DialFunc) http.RoundTripper {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return utilnet.SetTransportDefaults(&http.Transport{
		DialContext:     dial,
		Proxy:           func(*http.Request) (*url.URL, error) { return nil, nil },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as said above
	})
}

// splitID takes scheme:name:port apart; scheme and port may be missing.
func splitID(id string) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid request %q", id))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}

// checkAddress refuses addresses that lead back into the server's own host or network segment.
func checkAddress(address string) error {
	ip := net.ParseIP(address)
	if ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() || ip.IsUnspecified() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func newPodProxy(c Config, pods *registry.Kind) *httpProxy {
	transport := newBackendTransport(c.Dial)
	return &httpProxy{
		options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path: func(o runtime.Object) (string, bool) {
			options, ok := o.(*corev1.PodProxyOptions)
			return options.Path, ok
		},
		maxBytes: c.MaxBytesPerSecond,
		locate: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, err := splitID(id)
			if err != nil {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
			}
			pod, err := podOf(ctx, pods, name)
			if err != nil {
				return target{}, err
			}
			host, err := podHost(pod, port)
			if err != nil {
				return target{}, err
			}
			return target{&url.URL{Scheme: scheme, Host: host}, transport}, nil
		},
	}
}

// podHost is the pod's address and port; without a given port it is the first one that a container declares.
func podHost(pod *corev1.Pod, port string) (string, error) {
	if port == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	address := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		address = pod.Status.PodIPs[0].IP
	}
	if err := checkAddress(address); err != nil {
		return "", err
	}
	if port == "" {
		return hostOnly(address), nil
	}
	return net.JoinHostPort(address, port), nil
}

func hostOnly(address string) string {
	if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
		return "[" + address + "]"
	}
	return address
}

func newNodeProxy(c Config) *httpProxy {
	transport := newBackendTransport(c.Dial)
	return &httpProxy{
		options: func() runtime.Object { return &corev1.NodeProxyOptions{} },
		path: func(o runtime.Object) (string, bool) {
			options, ok := o.(*corev1.NodeProxyOptions)
			return options.Path, ok
		},
		maxBytes: c.MaxBytesPerSecond,
		locate: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
			}
			kubelet, err := c.Kubelet.Connect(ctx, name)
			if err != nil {
				return target{}, err
			}
			if (scheme == "" || scheme == "https") && (port == "" || port == kubelet.Port) {
				return target{kubelet.URL("", nil), kubelet.Transport}, nil
			}
			if err := checkAddress(kubelet.Host); net.ParseIP(kubelet.Host) != nil && err != nil {
				return target{}, err
			}
			if scheme == "" {
				scheme = "http"
			}
			return target{&url.URL{Scheme: scheme, Host: net.JoinHostPort(kubelet.Host, port)}, transport}, nil
		},
	}
}

func newServiceProxy(c Config, services *registry.Kind) *httpProxy {
	transport := newBackendTransport(c.Dial)
	return &httpProxy{
		options: func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		path: func(o runtime.Object) (string, bool) {
			options, ok := o.(*corev1.ServiceProxyOptions)
			return options.Path, ok
		},
		maxBytes: c.MaxBytesPerSecond,
		locate: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, err := splitID(id)
			if err != nil {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
			}
			obj, err := services.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return target{}, err
			}
			host, err := serviceHost(c.Slices, obj.(*corev1.Service), genericapirequest.NamespaceValue(ctx), port)
			if err != nil {
				return target{}, err
			}
			return target{&url.URL{Scheme: scheme, Host: host}, transport}, nil
		},
	}
}

// serviceHost picks a ready endpoint of the service's port, which is given by name or number; without one, the only port or the
// one without name.
func serviceHost(getter serviceproxy.EndpointSliceGetter, service *corev1.Service, namespace, port string) (string, error) {
	portName := port
	if number, err := strconv.Atoi(port); err == nil {
		at := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return int(p.Port) == number })
		if at < 0 {
			return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service.Name))
		}
		portName = service.Spec.Ports[at].Name
	} else if port == "" && len(service.Spec.Ports) == 1 {
		portName = service.Spec.Ports[0].Name
	}
	endpointSlices, err := getter.GetEndpointSlices(namespace, service.Name)
	if err != nil {
		return "", err
	}
	family := corev1.IPFamilyUnknown
	if len(service.Spec.IPFamilies) > 0 {
		family = service.Spec.IPFamilies[0]
	}
	return serviceproxy.RandomEndpoint(service.Name, endpointSlices, portName, family, func(e *discoveryv1.Endpoint) bool {
		return checkAddress(e.Addresses[0]) == nil
	})
}
