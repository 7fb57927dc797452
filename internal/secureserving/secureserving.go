// Package secureserving is the HTTPS port of a component: health, metrics and what else it shows, for whom the API server vouches.
package secureserving

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// readHeaderTimeout is only for headers: bodies may be streams that last as long as a session does.
	readHeaderTimeout = 30 * time.Second
	// drainTimeout is what requests get to end in when the server stops.
	drainTimeout = 2 * time.Second
)

// How long answers of the API server count: upstream's values.
var ttls = TTLs{Token: 10 * time.Second, Allowed: 10 * time.Second, Denied: 10 * time.Second}

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

// Run serves the handler and the paths of health until ctx ends. It is ready when all checks are; they may be called at any time.
func Run(ctx context.Context, cfg Config, mux *http.ServeMux, ready ...Check) error {
	if cfg.Port == 0 {
		return nil
	}
	mux.Handle("/healthz", health())
	mux.Handle("/livez", health())
	mux.Handle("/readyz", health(ready...))
	cas := CAFile(cfg.ClientCAFile)
	if cas == nil {
		cas = publishedCAs(ctx, cfg.Client)
	}
	gate := NewGate(GateConfig{
		Client: cfg.Client, ClientCAs: cas, Anonymous: true, Rights: pathRights, TTLs: ttls, Clock: clock.RealClock{},
		Subject: func(r *http.Request) string {
			return fmt.Sprintf("verb=%s, path=%s", strings.ToLower(r.Method), r.URL.Path)
		},
	})
	certificate, err := cfg.certificate()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return Serve(ctx, listener, gate.Wrap(mux), certificate)
}

// pathRights asks for the right to the path itself.
func pathRights(r *http.Request) []authorizationv1.SubjectAccessReviewSpec {
	if slices.Contains(openPaths, r.URL.Path) {
		return nil
	}
	return []authorizationv1.SubjectAccessReviewSpec{{
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)},
	}}
}

// Check is a named condition of being ready.
type Check struct {
	Name string
	Err  func(*http.Request) error
}

// health answers ok, or which checks fail.
func health(checks ...Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, failed := "[+]ping ok\n", false
		for _, c := range checks {
			if err := c.Err(r); err != nil {
				failed = true
				out += fmt.Sprintf("[-]%s failed: %v\n", c.Name, err)
				continue
			}
			out += fmt.Sprintf("[+]%s ok\n", c.Name)
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		switch {
		case failed:
			http.Error(w, out+name+" check failed", http.StatusInternalServerError)
		case r.URL.Query().Has("verbose"):
			_, _ = fmt.Fprint(w, out+name+" check passed\n")
		default:
			_, _ = fmt.Fprint(w, "ok")
		}
	})
}

func (c Config) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if c.CertFile != "" {
		return certificateFile(c.CertFile, c.KeyFile), nil
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, nil)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, nil
}

// Serve serves HTTPS on the listener until ctx ends. Client certificates are asked for and not verified, since a bearer token may come
// with one: that is the business of a Gate.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(logWriter{klog.FromContext(ctx)}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: certificate, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
		},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close() // what did not end in time is cut
		}
	})
	err := server.ServeTLS(listener, "", "")
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve HTTPS: %w", err)
}

// logWriter sends what net/http has to say, mostly about broken handshakes, to the log at a level where it does not disturb.
type logWriter struct{ logger logr.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	l.logger.V(2).Info("HTTPS port", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}
