// Package kubeletclient says where the kubelet of a node listens and how to talk to it.
package kubeletclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/transport"
)

// Config is how this server identifies itself to kubelets and what it trusts.
type Config struct {
	// Nodes is the storage of nodes.
	Nodes rest.Getter
	// CAFile signs the kubelets' serving certificates; without it they are not verified, as upstream does.
	CAFile, CertFile, KeyFile string
	// AddressTypes is the order in which a node's addresses are looked at.
	AddressTypes []corev1.NodeAddressType
	// DefaultPort is for nodes that report none.
	DefaultPort uint
	// Timeout limits how long connecting to a kubelet may take. What it answers may take longer: logs are followed, profiles taken.
	Timeout time.Duration
	// Dial connects to kubelets; nil connects directly.
	Dial utilnet.DialFunc
}

// Client reaches kubelets.
type Client struct {
	config    Config
	transport http.RoundTripper
	insecure  http.RoundTripper
}

// New builds the transports.
func New(config Config) (*Client, error) {
	verified := transport.Config{TLS: transport.TLSConfig{
		CAFile: config.CAFile, CertFile: config.CertFile, KeyFile: config.KeyFile, Insecure: config.CAFile == "",
		ReloadTLSFiles: true,
	}}
	insecure := transport.Config{TLS: transport.TLSConfig{
		CertFile: config.CertFile, KeyFile: config.KeyFile, Insecure: true, ReloadTLSFiles: true,
	}}
	// Streams upgrade their connection, which HTTP/2 cannot.
	verified.TLS.NextProtos, insecure.TLS.NextProtos = []string{"http/1.1"}, []string{"http/1.1"}
	holder := &transport.DialHolder{Dial: config.dialer()}
	verified.DialHolder, insecure.DialHolder = holder, holder
	c := &Client{config: config}
	var err error
	if c.transport, err = transport.New(&verified); err != nil {
		return nil, fmt.Errorf("build the transport to kubelets: %w", err)
	}
	if c.insecure, err = transport.New(&insecure); err != nil {
		return nil, fmt.Errorf("build the transport to kubelets: %w", err)
	}
	return c, nil
}

func (c *Config) dialer() utilnet.DialFunc {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
}

// Connection is a way to one kubelet.
type Connection struct {
	Host      string // without port
	Port      string
	Transport http.RoundTripper
	// Insecure does not verify the kubelet's certificate, for clients that ask for logs that way.
	Insecure http.RoundTripper
}

// URL is a path at the kubelet.
func (c *Connection) URL(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(c.Host, c.Port), Path: path, RawQuery: query.Encode()}
}

// Connect finds the kubelet of a node.
func (c *Client) Connect(ctx context.Context, nodeName string) (*Connection, error) {
	ctx = genericapirequest.WithNamespace(ctx, metav1.NamespaceNone)
	// The object's error, if any, names nodes and not what the request is about.
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{APIVersion: "v1", Resource: "nodes", IsResourceRequest: true})
	obj, err := c.config.Nodes.Get(ctx, nodeName, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("node %s: found %T", nodeName, obj)
	}
	host, err := Address(node, c.config.AddressTypes)
	if err != nil {
		return nil, err
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port <= 0 {
		port = int(c.config.DefaultPort)
	}
	return &Connection{Host: host, Port: strconv.Itoa(port), Transport: c.transport, Insecure: c.insecure}, nil
}

// Address returns a node's first address of the first type that it has.
func Address(node *corev1.Node, types []corev1.NodeAddressType) (string, error) {
	for _, t := range types {
		for _, a := range node.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("node %s has no address of the types %v", node.Name, types)
}
