// Package secureserving is the HTTPS port of a component: health, metrics and what else it shows, for whom the API server vouches.
// Tokens and rights are reviewed by the API server; client certificates are those that it accepts itself.
package secureserving

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// How long answers of the API server count, and how long one may take: upstream's values.
const (
	tokenTTL      = 10 * time.Second
	rightsTTL     = 10 * time.Second
	reviewTimeout = 10 * time.Second
	shutdownTime  = 5 * time.Second
	lookupRetry   = time.Second
)

// openPaths are for everybody: they say no more than that a process lives.
var openPaths = []string{"/healthz", "/livez", "/readyz"}

// Config of a port.
type Config struct {
	Address string // to listen on; empty: every one
	Port    int    // 0: nothing listens
	// CertFile and KeyFile are the serving certificate; without, one is made that nobody can verify.
	CertFile, KeyFile string
	// ClientCAFile verifies client certificates; empty: what the API server publishes in kube-system.
	ClientCAFile string
	Client       kubernetes.Interface
}

// AddFlags registers upstream's flags of the port.
func (c *Config) AddFlags(fs *pflag.FlagSet, port int) {
	fs.StringVar(&c.Address, "bind-address", "0.0.0.0", "address of the HTTPS port")
	fs.IntVar(&c.Port, "secure-port", port, "HTTPS port of health and metrics; 0: none")
	fs.StringVar(&c.CertFile, "tls-cert-file", "", "serving certificate; empty: one that nobody can verify")
	fs.StringVar(&c.KeyFile, "tls-private-key-file", "", "its key")
	fs.StringVar(&c.ClientCAFile, "client-ca-file", "", "authority of client certificates; empty: what the API server publishes in kube-system")
}

// Run serves the handler until ctx ends.
func Run(ctx context.Context, cfg Config, handler http.Handler) error {
	if cfg.Port == 0 {
		return nil
	}
	clientCA, err := cfg.clientCA(ctx)
	if err != nil {
		return err
	}
	if handler, err = cfg.gate(handler, clientCA); err != nil {
		return err
	}
	certificate, err := cfg.certificate()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	info := &server.SecureServingInfo{Listener: listener, Cert: certificate, ClientCA: clientCA}
	stopped, _, err := info.Serve(handler, shutdownTime, ctx.Done())
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	<-stopped
	return nil
}

func (c Config) clientCA(ctx context.Context) (dynamiccertificates.CAContentProvider, error) {
	if c.ClientCAFile != "" {
		ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", c.ClientCAFile)
		if err == nil {
			go ca.Run(ctx, 1)
		}
		return ca, err
	}
	ca, err := dynamiccertificates.NewDynamicCAFromConfigMapController("client-ca", metav1.NamespaceSystem, "extension-apiserver-authentication", "client-ca-file", c.Client)
	if err != nil {
		return nil, err
	}
	// An API server that is not there yet is no reason to give up: the component itself waits for it too.
	err = wait.PollUntilContextCancel(ctx, lookupRetry, true, func(ctx context.Context) (bool, error) {
		err := ca.RunOnce(ctx)
		if err != nil {
			klog.FromContext(ctx).Info("The authority of clients is not known yet, will try again", "err", err)
		}
		return err == nil, nil
	})
	if err == nil {
		go ca.Run(ctx, 1)
	}
	return ca, err
}

func (c Config) certificate() (dynamiccertificates.CertKeyContentProvider, error) {
	if c.CertFile != "" {
		return dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert", c.CertFile, c.KeyFile)
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, nil)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	return dynamiccertificates.NewStaticCertKeyContent("self-signed", cert, key)
}

// gate lets in whom the API server vouches for, to what it allows.
func (c Config) gate(handler http.Handler, clientCA dynamiccertificates.CAContentProvider) (http.Handler, error) {
	authenticator, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous: &apiserver.AnonymousAuthConfig{Enabled: true}, TokenAccessReviewClient: c.Client.AuthenticationV1(), TokenAccessReviewTimeout: reviewTimeout,
		WebhookRetryBackoff: options.DefaultAuthWebhookRetryBackoff(), CacheTTL: tokenTTL, ClientCertificateCAContentProvider: clientCA,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("build authentication: %w", err)
	}
	open, err := path.NewAuthorizer(openPaths)
	if err != nil {
		return nil, fmt.Errorf("build authorization: %w", err)
	}
	rights, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: c.Client.AuthorizationV1(), AllowCacheTTL: rightsTTL, DenyCacheTTL: rightsTTL,
		WebhookRetryBackoff: options.DefaultAuthWebhookRetryBackoff(), Compiler: noCompiler{},
	}.New()
	if err != nil {
		return nil, fmt.Errorf("build authorization: %w", err)
	}
	both, err := union.New(union.NamedAuthorizer{AuthorizerName: "open-paths", Authorizer: open}, union.NamedAuthorizer{AuthorizerName: "reviews", Authorizer: rights})
	if err != nil {
		return nil, fmt.Errorf("build authorization: %w", err)
	}
	codecs := serializer.NewCodecFactory(runtime.NewScheme())
	resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString(), GrouplessAPIPrefixes: sets.NewString()}
	handler = filters.WithAuthorization(handler, both, codecs)
	handler = filters.WithAuthentication(handler, authenticator, filters.Unauthorized(codecs), nil, nil)
	handler = filters.WithRequestInfo(handler, resolver)
	return serverfilters.WithPanicRecovery(handler, resolver), nil
}

// noCompiler saves the memory of a CEL environment that only match conditions would need: a delegated review has none.
type noCompiler struct{}

var errNoConditions = errors.New("there are no match conditions")

func (noCompiler) CompileCELExpression(authorizationcel.ExpressionAccessor) (authorizationcel.CompilationResult, error) {
	return authorizationcel.CompilationResult{}, errNoConditions
}
