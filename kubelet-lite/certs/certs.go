// Package certs gets the node its identity: a client certificate by TLS bootstrap, renewed before it expires, and a serving
// certificate for the kubelet's own API.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/internal/apiclient"
	"keelson.dev/kubelet-lite/metrics"
)

const component = "kubelet-lite"

// Config of a node's identity.
type Config struct {
	NodeName string
	Dir      string // /var/lib/kubelet/pki
	// Bootstrap is how to ask for the first client certificate: a bootstrap token's credentials. nil if there is none.
	Bootstrap *rest.Config
	Clock     clock.Clock
}

// Client waits for a client certificate and returns a config that authenticates with it, now and after each renewal. base says
// where the API server is and whom to trust.
func Client(ctx context.Context, cfg Config, base *rest.Config) (*rest.Config, error) {
	store, err := fileStore(ctx, cfg, "kubelet-client")
	if err != nil {
		return nil, err
	}
	anonymous := rest.AnonymousClientConfig(base)
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(current *tls.Certificate) (kubernetes.Interface, error) {
			if current == nil {
				if cfg.Bootstrap == nil {
					return nil, fmt.Errorf("no client certificate in %s and no bootstrap kubeconfig to ask for one", cfg.Dir)
				}
				return apiclient.Clientset(apiclient.Config(cfg.Bootstrap, component))
			}
			return apiclient.Clientset(withCertificate(anonymous, func() *tls.Certificate { return current }))
		},
		Template:         &x509.CertificateRequest{Subject: subject(cfg.NodeName)},
		SignerName:       certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: store,
		Name:             "kubelet-client",

		CertificateRenewFailure: metrics.ClientRenewErrs,
		Ctx:                     &ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	if manager.Current() == nil && cfg.Bootstrap != nil {
		if err := waitAdmitted(ctx, cfg); err != nil {
			return nil, err
		}
	}
	manager.Start()
	if err := waitFor(ctx, cfg, manager); err != nil {
		return nil, err
	}
	metrics.ClientCertificate.Watch(manager.Current)
	return withCertificate(anonymous, manager.Current), nil
}

// firstCertificatePoll is how often to look for the first certificate; the manager offers nothing to wait on.
const firstCertificatePoll = 50 * time.Millisecond

// waitAdmitted returns once the API server knows the bootstrap identity. The certificate manager would find out too, but backs off
// for seconds after each refusal, and a new cluster's server is ready in less.
func waitAdmitted(ctx context.Context, cfg Config) error {
	client, err := apiclient.Clientset(apiclient.Config(cfg.Bootstrap, component))
	if err != nil {
		return err
	}
	last := ""
	for {
		review := &authenticationv1.SelfSubjectReview{}
		_, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil {
			return nil
		}
		if err.Error() != last {
			last = err.Error()
			klog.FromContext(ctx).Info("Waiting for the API server to know the bootstrap identity", "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w", err)
		case <-cfg.Clock.After(firstCertificatePoll):
		}
	}
}

func waitFor(ctx context.Context, cfg Config, manager certificate.Manager) error {
	for manager.Current() == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the client certificate: %w", ctx.Err())
		case <-cfg.Clock.After(firstCertificatePoll):
		}
	}
	return nil
}

// withCertificate makes each new connection use the certificate of that moment.
func withCertificate(anonymous *rest.Config, current func() *tls.Certificate) *rest.Config {
	out := apiclient.Config(anonymous, component)
	tlsConfig, err := rest.TLSConfigFor(anonymous)
	if err != nil || tlsConfig == nil {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if c := current(); c != nil {
			return c, nil
		}
		return &tls.Certificate{}, nil
	}
	tlsConfig.NextProtos = []string{"h2", "http/1.1"}
	dial, proxy := anonymous.Dial, anonymous.Proxy
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	out.Transport = &http.Transport{
		Proxy: proxy, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second, DialContext: dial,
	}
	out.TLSClientConfig, out.Dial, out.Proxy = rest.TLSClientConfig{}, nil, nil
	return out
}

// Serving keeps a serving certificate for the node's names and addresses, signed by the cluster.
func Serving(ctx context.Context, cfg Config, client kubernetes.Interface, names []string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	store, err := fileStore(ctx, cfg, "kubelet-server")
	if err != nil {
		return nil, err
	}
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		Template:         &x509.CertificateRequest{Subject: subject(cfg.NodeName), DNSNames: names, IPAddresses: ips},
		SignerName:       certificatesv1.KubeletServingSignerName,
		GetUsages:        certificate.DefaultKubeletServingGetUsages,
		CertificateStore: store,
		Name:             "kubelet-serving",

		CertificateRenewFailure: metrics.ServingRenewErrs, CertificateRotation: metrics.ServingAge,
		Ctx: &ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	manager.Start()
	metrics.ServingCertificate.Watch(manager.Current)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := manager.Current(); c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("no serving certificate available for the kubelet")
	}, nil
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

func fileStore(ctx context.Context, cfg Config, name string) (certificate.FileStore, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate directory: %w", err)
	}
	store, err := certificate.NewFileStoreWithLogger(klog.FromContext(ctx).V(3), name, cfg.Dir, cfg.Dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open certificate store: %w", err)
	}
	return store, nil
}
