// Package server assembles the API server: options, the generic server of the library, the built-in kinds of apis.All, custom
// resources and the aggregation layer in one process, and their life from start to drained shutdown.
package server

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/flagz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics"

	"keelson.dev/apiserver/admission"
	"keelson.dev/apiserver/authorization"
	"keelson.dev/apiserver/storage"
)

// Options is everything that can be configured. The fields follow kube-apiserver's flags, so that a manifest written for upstream
// starts this server too.
type Options struct {
	Run      *genericoptions.ServerRunOptions
	Serving  *genericoptions.SecureServingOptions
	Audit    *genericoptions.AuditOptions
	Features *genericoptions.FeatureOptions
	Tracing  *genericoptions.TracingOptions
	Egress   *genericoptions.EgressSelectorOptions
	Metrics  *metrics.Options
	APIs     *genericoptions.APIEnablementOptions
	Etcd     *genericoptions.EtcdOptions
	// Embedded is the etcd member that runs in this process while Etcd names no servers.
	Embedded storage.MemberOptions

	Authentication AuthenticationOptions
	Authorization  AuthorizationOptions
	Admission      *genericoptions.AdmissionOptions
	Tolerations    *admission.TolerationSeconds
	// AdmissionControl, if not empty, names all admission plugins that run; the old way to say it.
	AdmissionControl []string
	ServiceAccount   ServiceAccountOptions
	Kubelet          KubeletOptions
	Proxy            ProxyOptions

	// ServiceClusterIPRange is one CIDR, or one of each IP family with a comma between; the first is the primary family.
	ServiceClusterIPRange string
	ServiceNodePortRange  utilnet.PortRange
	// KubernetesServiceNodePort makes the service default/kubernetes a NodePort service if it is not 0.
	KubernetesServiceNodePort int
	// EndpointReconcilerType is lease (default) or none.
	EndpointReconcilerType string
	EventTTL               time.Duration
	AllowPrivileged        bool
	// MaxConnectionBytesPerSec limits the rate of each exec, attach and port-forward connection; 0 is no limit.
	MaxConnectionBytesPerSec int64
	// IdentityLeaseSeconds and IdentityLeaseRenewSeconds time the lease by which API servers see each other.
	IdentityLeaseSeconds, IdentityLeaseRenewSeconds int

	// ServerID tells this server from others on the same etcd; empty is made of the host's name, as upstream does.
	ServerID string
	// PeerCAFile is refused: requests are not passed on to servers of another version.
	PeerCAFile string
	// Flagz, if set, tells the flags' values at /flagz.
	Flagz flagz.Reader
	// EnableLogsHandler serves the files of /var/log.
	EnableLogsHandler bool

	// Listener, if set, is served instead of a socket of Serving's address: tests and the lab pass an open one.
	Listener net.Listener
	// Ready is called once, when /readyz is true, with a privileged client configuration for this server.
	Ready func(loopback *rest.Config)
}

// AuthenticationOptions names the files by which clients are known.
type AuthenticationOptions struct {
	// Anonymous lets requests without credentials through everywhere (true) or nowhere; nil means to the health endpoints only.
	Anonymous               *bool
	ClientCAFile            string
	TokenAuthFile           string
	BootstrapTokens         bool
	ConfigFile              string
	WebhookConfigFile       string
	WebhookCacheTTL         time.Duration
	WebhookVersion          string
	APIAudiences            []string
	RequestHeaderCAFile     string
	RequestHeaderNames      []string
	RequestHeaderUIDs       []string
	RequestHeaderGroups     []string
	RequestHeaderExtra      []string
	RequestHeaderAllowedCNs []string
	OIDCIssuerURL           string
	OIDCClientID            string
	OIDCCAFile              string
	OIDCUsernameClaim       string
	OIDCUsernamePrefix      string
	OIDCGroupsClaim         string
	OIDCGroupsPrefix        string
	OIDCSigningAlgs         []string
	OIDCRequiredClaims      map[string]string
}

// AuthorizationOptions names the authorizers.
type AuthorizationOptions struct {
	Modes                       []string
	PolicyFile                  string // of mode ABAC, which is refused
	ConfigFile                  string
	WebhookConfigFile           string
	WebhookVersion              string
	WebhookCacheAuthorizedTTL   time.Duration
	WebhookCacheUnauthorizedTTL time.Duration
}

// ServiceAccountOptions is about the tokens that this server issues and accepts.
type ServiceAccountOptions struct {
	Issuers          []string
	KeyFiles         []string
	SigningKeyFile   string
	JWKSURI          string
	MaxExpiration    time.Duration
	ExtendExpiration bool
	Lookup           bool
	// SigningEndpoint is the socket of a process that signs in place of SigningKeyFile and KeyFiles.
	SigningEndpoint string
}

// KubeletOptions is how the server reaches kubelets.
type KubeletOptions struct {
	CAFile, CertFile, KeyFile string
	PreferredAddressTypes     []string
	Port                      uint
	Timeout                   time.Duration
}

// ProxyOptions is the identity that the aggregation layer shows to the servers behind it.
type ProxyOptions struct {
	ClientCertFile, ClientKeyFile string
	EndpointRouting               bool // --enable-aggregator-routing
	RejectRedirects               bool // --aggregator-reject-forwarding-redirect
}

// NewOptions returns the defaults: those of kube-apiserver but for the embedded etcd and RBAC.
func NewOptions() *Options {
	seconds := &admission.TolerationSeconds{NotReady: 300, Unreachable: 300}
	o := &Options{
		Run:       genericoptions.NewServerRunOptions(),
		Serving:   genericoptions.NewSecureServingOptions(),
		Audit:     genericoptions.NewAuditOptions(),
		Features:  genericoptions.NewFeatureOptions(),
		Tracing:   genericoptions.NewTracingOptions(),
		Egress:    genericoptions.NewEgressSelectorOptions(),
		Metrics:   metrics.NewOptions(),
		APIs:      genericoptions.NewAPIEnablementOptions(),
		Etcd:      genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", nil)),
		Embedded:  storage.NewMemberOptions(),
		Admission: admission.NewOptions(seconds), Tolerations: seconds,

		Authentication: AuthenticationOptions{
			BootstrapTokens: true, WebhookCacheTTL: 2 * time.Minute, WebhookVersion: "v1beta1",
			OIDCUsernameClaim: "sub", OIDCSigningAlgs: []string{"RS256"},
		},
		Authorization: AuthorizationOptions{
			Modes: []string{"Node", "RBAC"}, WebhookVersion: "v1beta1",
			WebhookCacheAuthorizedTTL: 5 * time.Minute, WebhookCacheUnauthorizedTTL: 30 * time.Second,
		},
		ServiceAccount: ServiceAccountOptions{Lookup: true, ExtendExpiration: true},
		Kubelet: KubeletOptions{
			PreferredAddressTypes: []string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"},
			Port:                  10250, Timeout: 5 * time.Second,
		},

		Proxy: ProxyOptions{RejectRedirects: true},

		ServiceClusterIPRange:     "10.96.0.0/12",
		ServiceNodePortRange:      utilnet.PortRange{Base: 30000, Size: 2768},
		EndpointReconcilerType:    "lease",
		EventTTL:                  time.Hour,
		AllowPrivileged:           true,
		IdentityLeaseSeconds:      3600,
		IdentityLeaseRenewSeconds: 10,
	}
	o.Serving.BindPort = 6443
	o.Serving.ServerCert.CertDirectory = "" // no certificate given: one in memory, nothing is written
	o.Etcd.DefaultStorageMediaType = "application/vnd.kubernetes.protobuf"
	o.Features.EnableProfiling = false
	// A write that thousands watch is weighed by seats. Upstream's 600, for any machine, let one client fill two processors with such (ADR 3).
	processors := runtime.GOMAXPROCS(0)
	o.Run.MaxRequestsInFlight = min(o.Run.MaxRequestsInFlight, readsPerProcessor*processors)
	o.Run.MaxMutatingRequestsInFlight = min(o.Run.MaxMutatingRequestsInFlight, writesPerProcessor*processors)
	return o
}

// What priority and fairness shares out, for each processor.
const (
	readsPerProcessor  = 20
	writesPerProcessor = 10
)

// Validate finds what cannot work before anything is started.
func (o *Options) Validate() error {
	var errs []error
	errs = append(errs, o.Run.Validate()...)
	errs = append(errs, o.Serving.Validate()...)
	errs = append(errs, o.Audit.Validate()...)
	errs = append(errs, o.Tracing.Validate()...)
	errs = append(errs, o.Egress.Validate()...)
	errs = append(errs, o.Metrics.Validate()...)
	if len(o.Etcd.StorageConfig.Transport.ServerList) > 0 {
		errs = append(errs, o.Etcd.Validate()...)
	}
	if _, err := o.serviceCIDRs(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, o.ServiceAccount.validate()...)
	errs = append(errs, o.Authorization.validate()...)
	if o.PeerCAFile != "" {
		errs = append(errs, errors.New("--peer-ca-file: requests are not passed on to API servers of another version"))
	}
	if (o.Proxy.ClientCertFile == "") != (o.Proxy.ClientKeyFile == "") {
		errs = append(errs, errors.New("--proxy-client-cert-file and --proxy-client-key-file go together"))
	}
	switch o.EndpointReconcilerType {
	case "lease", "none":
	default:
		errs = append(errs, fmt.Errorf("--endpoint-reconciler-type %q: only lease and none are known", o.EndpointReconcilerType))
	}
	return errors.Join(errs...)
}

func (s *ServiceAccountOptions) validate() []error {
	var errs []error
	switch {
	case len(s.Issuers) == 0:
		errs = append(errs, errors.New("--service-account-issuer is required"))
	case s.SigningEndpoint == "" && s.SigningKeyFile == "":
		errs = append(errs, errors.New("--service-account-signing-key-file or --service-account-signing-endpoint is required"))
	case s.SigningEndpoint != "" && (s.SigningKeyFile != "" || len(s.KeyFiles) > 0):
		errs = append(errs, errors.New("--service-account-signing-endpoint excludes --service-account-signing-key-file and --service-account-key-file"))
	}
	if m := s.MaxExpiration; m != 0 && (m < time.Hour || m > (1<<32)*time.Second) {
		errs = append(errs, errors.New("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"))
	}
	return errs
}

func (a *AuthorizationOptions) validate() []error {
	var errs []error
	if slices.Contains(a.Modes, "ABAC") || a.PolicyFile != "" {
		errs = append(errs, errors.New("authorization mode ABAC is not supported: use RBAC"))
	}
	if a.WebhookConfigFile != "" && !slices.Contains(a.Modes, authorization.ModeWebhook) {
		errs = append(errs, errors.New("cannot specify --authorization-webhook-config-file without mode Webhook"))
	}
	return errs
}
