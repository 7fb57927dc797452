package server

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/server/flagz"
	cliflag "k8s.io/component-base/cli/flag"
	utilnet "k8s.io/utils/net"

	"keelson.dev/internal/features"
)

// AddFlags registers kube-apiserver's flags, and --data-dir and --etcd-* for the embedded etcd.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	features.Register()
	o.Flagz = flagz.NamedFlagSetsReader{FlagSets: cliflag.NamedFlagSets{FlagSets: map[string]*pflag.FlagSet{"apiserver": fs}}}
	o.Run.AddUniversalFlags(fs)
	o.Serving.AddFlags(fs)
	o.Audit.AddFlags(fs)
	o.Features.AddFlags(fs)
	o.Tracing.AddFlags(fs)
	o.Egress.AddFlags(fs)
	o.Metrics.AddFlags(fs)
	o.APIs.AddFlags(fs)
	o.Etcd.AddFlags(fs)
	o.addEmbeddedFlags(fs)
	o.Authentication.addFlags(fs)
	o.Authorization.addFlags(fs)
	o.Admission.AddFlags(fs)
	fs.StringSliceVar(&o.AdmissionControl, "admission-control", o.AdmissionControl, "All admission plugins that run.")
	_ = fs.MarkDeprecated("admission-control", "Use --enable-admission-plugins or --disable-admission-plugins instead.")
	fs.Int64Var(&o.Tolerations.NotReady, "default-not-ready-toleration-seconds", o.Tolerations.NotReady,
		"How long pods that do not say themselves stay on a node that is not ready.")
	fs.Int64Var(&o.Tolerations.Unreachable, "default-unreachable-toleration-seconds", o.Tolerations.Unreachable,
		"How long pods that do not say themselves stay on a node that cannot be reached.")
	o.ServiceAccount.addFlags(fs)
	o.Kubelet.addFlags(fs)
	o.Proxy.addFlags(fs)
	o.addServiceFlags(fs)

	fs.StringVar(&o.EndpointReconcilerType, "endpoint-reconciler-type", o.EndpointReconcilerType,
		"How the endpoints of the service kubernetes are kept: lease or none.")
	fs.DurationVar(&o.EventTTL, "event-ttl", o.EventTTL, "How long events are kept.")
	fs.BoolVar(&o.AllowPrivileged, "allow-privileged", o.AllowPrivileged, "Allow privileged containers.")
	fs.Int64Var(&o.MaxConnectionBytesPerSec, "max-connection-bytes-per-sec", o.MaxConnectionBytesPerSec,
		"Rate limit of each exec, attach and port-forward connection in bytes per second; 0 is no limit.")
	fs.BoolVar(&o.EnableLogsHandler, "enable-logs-handler", o.EnableLogsHandler, "Serve the files of /var/log below /logs.")
	fs.StringVar(&o.PeerCAFile, "peer-ca-file", o.PeerCAFile, "Not supported: requests are not passed on to API servers of another version.")
	o.addUnusedFlags(fs)
	fs.IntVar(&o.IdentityLeaseSeconds, "identity-lease-duration-seconds", o.IdentityLeaseSeconds,
		"How long the identity lease of an API server is valid.")
	fs.IntVar(&o.IdentityLeaseRenewSeconds, "identity-lease-renew-interval-seconds", o.IdentityLeaseRenewSeconds,
		"How often the identity lease is renewed.")
}

// addUnusedFlags registers what manifests may carry and nothing depends on: features that are off unless their gate is opened, and
// what upstream has given up.
func (o *Options) addUnusedFlags(fs *pflag.FlagSet) {
	for _, name := range []string{"peer-advertise-ip", "peer-advertise-port"} {
		fs.String(name, "", "Without effect: requests are not passed on to API servers of another version.")
	}
	for name, value := range map[string]time.Duration{
		"coordinated-leadership-lease-duration": 15 * time.Second, "coordinated-leadership-renew-deadline": 10 * time.Second,
		"coordinated-leadership-retry-period": 2 * time.Second,
	} {
		fs.Duration(name, value, "Without effect: coordinated leader election is off.")
	}
	fs.Int("apiserver-count", 1, "The number of API servers.")
	fs.Uint("kubelet-read-only-port", 10255, "Read-only port of kubelets.")
	for _, name := range []string{"apiserver-count", "kubelet-read-only-port"} {
		if err := fs.MarkDeprecated(name, name+" is deprecated and will be removed."); err != nil {
			panic(err) // the name was registered above
		}
	}
}

func (o *Options) addEmbeddedFlags(fs *pflag.FlagSet) {
	e := &o.Embedded
	fs.StringVar(&e.DataDir, "data-dir", e.DataDir, "Directory of the embedded etcd, which runs when --etcd-servers is empty.")
	fs.StringVar(&e.Name, "etcd-name", e.Name, "Name of the embedded etcd member.")
	fs.StringSliceVar(&e.ListenClientURLs, "etcd-listen-client-urls", e.ListenClientURLs,
		"Further client addresses of the embedded etcd; it is always reachable by a socket in --data-dir.")
	fs.StringSliceVar(&e.ListenPeerURLs, "etcd-listen-peer-urls", e.ListenPeerURLs, "Peer addresses of the embedded etcd; none for a cluster of one.")
	fs.StringSliceVar(&e.AdvertisePeerURLs, "etcd-initial-advertise-peer-urls", e.AdvertisePeerURLs, "Peer addresses that other members use.")
	fs.StringVar(&e.InitialCluster, "etcd-initial-cluster", e.InitialCluster, "All members, as name=peerURL with commas between.")
	fs.StringSliceVar(&e.Join, "etcd-join", e.Join, "Client URLs of a running etcd cluster that the embedded etcd joins if it has no data.")
	fs.StringVar(&e.CAFile, "etcd-member-cafile", e.CAFile, "CA of the etcd members and their clients.")
	fs.StringVar(&e.CertFile, "etcd-member-certfile", e.CertFile, "Certificate of the embedded etcd member.")
	fs.StringVar(&e.KeyFile, "etcd-member-keyfile", e.KeyFile, "Key of the embedded etcd member.")
	fs.BoolVar(&e.UnsafeNoFsync, "etcd-unsafe-no-fsync", e.UnsafeNoFsync, "Do not sync writes to disk: for test runs only.")
	fs.Int64Var(&e.QuotaBytes, "etcd-quota-backend-bytes", e.QuotaBytes, "Size limit of the embedded etcd's database.")
}

func (a *AuthenticationOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolFunc("anonymous-auth", "Let requests without credentials through as system:anonymous; not given, only to the health endpoints.", func(value string) error {
		allowed, err := strconv.ParseBool(value)
		a.Anonymous = &allowed
		return err
	})
	fs.StringVar(&a.ClientCAFile, "client-ca-file", a.ClientCAFile, "CA whose client certificates are accepted.")
	fs.StringVar(&a.TokenAuthFile, "token-auth-file", a.TokenAuthFile, "CSV file of static bearer tokens.")
	fs.BoolVar(&a.BootstrapTokens, "enable-bootstrap-token-auth", a.BootstrapTokens, "Accept bootstrap token secrets.")
	fs.StringVar(&a.ConfigFile, "authentication-config", a.ConfigFile, "AuthenticationConfiguration file.")
	fs.StringVar(&a.WebhookConfigFile, "authentication-token-webhook-config-file", a.WebhookConfigFile, "Kubeconfig of a token webhook.")
	fs.DurationVar(&a.WebhookCacheTTL, "authentication-token-webhook-cache-ttl", a.WebhookCacheTTL, "How long answers of the token webhook are kept.")
	fs.StringVar(&a.WebhookVersion, "authentication-token-webhook-version", a.WebhookVersion, "Version of TokenReview sent to the webhook.")
	fs.StringSliceVar(&a.APIAudiences, "api-audiences", a.APIAudiences, "Audiences of this API; the service account issuer if empty.")
	fs.StringVar(&a.RequestHeaderCAFile, "requestheader-client-ca-file", a.RequestHeaderCAFile, "CA of the front proxies.")
	fs.StringSliceVar(&a.RequestHeaderNames, "requestheader-username-headers", a.RequestHeaderNames, "Headers with the user name.")
	fs.StringSliceVar(&a.RequestHeaderUIDs, "requestheader-uid-headers", a.RequestHeaderUIDs, "Headers with the user's UID.")
	fs.StringSliceVar(&a.RequestHeaderGroups, "requestheader-group-headers", a.RequestHeaderGroups, "Headers with groups.")
	fs.StringSliceVar(&a.RequestHeaderExtra, "requestheader-extra-headers-prefix", a.RequestHeaderExtra, "Prefixes of headers with extra information.")
	fs.StringSliceVar(&a.RequestHeaderAllowedCNs, "requestheader-allowed-names", a.RequestHeaderAllowedCNs, "Common names of front proxies; any if empty.")
	fs.StringVar(&a.OIDCIssuerURL, "oidc-issuer-url", a.OIDCIssuerURL, "URL of the OpenID issuer.")
	fs.StringVar(&a.OIDCClientID, "oidc-client-id", a.OIDCClientID, "Client ID that OpenID tokens must be issued for.")
	fs.StringVar(&a.OIDCCAFile, "oidc-ca-file", a.OIDCCAFile, "CA of the OpenID issuer.")
	fs.StringVar(&a.OIDCUsernameClaim, "oidc-username-claim", a.OIDCUsernameClaim, "Claim that holds the user name.")
	fs.StringVar(&a.OIDCUsernamePrefix, "oidc-username-prefix", a.OIDCUsernamePrefix, "Prefix of OpenID user names.")
	fs.StringVar(&a.OIDCGroupsClaim, "oidc-groups-claim", a.OIDCGroupsClaim, "Claim that holds the groups.")
	fs.StringVar(&a.OIDCGroupsPrefix, "oidc-groups-prefix", a.OIDCGroupsPrefix, "Prefix of OpenID groups.")
	fs.StringSliceVar(&a.OIDCSigningAlgs, "oidc-signing-algs", a.OIDCSigningAlgs, "Accepted signing algorithms.")
	fs.Var(cliflag.NewMapStringStringNoSplit(&a.OIDCRequiredClaims), "oidc-required-claim", "A key=value claim that tokens must have.")
}

func (a *AuthorizationOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&a.Modes, "authorization-mode", a.Modes, "Authorizers in order: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook.")
	fs.StringVar(&a.ConfigFile, "authorization-config", a.ConfigFile, "AuthorizationConfiguration file.")
	fs.StringVar(&a.PolicyFile, "authorization-policy-file", a.PolicyFile, "Not supported: the policy file of mode ABAC.")
	fs.StringVar(&a.WebhookConfigFile, "authorization-webhook-config-file", a.WebhookConfigFile, "Kubeconfig of the authorization webhook.")
	fs.StringVar(&a.WebhookVersion, "authorization-webhook-version", a.WebhookVersion, "Version of SubjectAccessReview sent to the webhook.")
	fs.DurationVar(&a.WebhookCacheAuthorizedTTL, "authorization-webhook-cache-authorized-ttl", a.WebhookCacheAuthorizedTTL, "How long grants are kept.")
	fs.DurationVar(&a.WebhookCacheUnauthorizedTTL, "authorization-webhook-cache-unauthorized-ttl", a.WebhookCacheUnauthorizedTTL, "How long denials are kept.")
}

func (s *ServiceAccountOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&s.Issuers, "service-account-issuer", s.Issuers, "Issuer of service account tokens; further ones are only accepted.")
	fs.StringArrayVar(&s.KeyFiles, "service-account-key-file", s.KeyFiles, "Public or private keys that verify service account tokens.")
	fs.StringVar(&s.SigningKeyFile, "service-account-signing-key-file", s.SigningKeyFile, "Private key that signs service account tokens.")
	fs.StringVar(&s.SigningEndpoint, "service-account-signing-endpoint", s.SigningEndpoint, "Socket of a process that signs service account tokens.")
	fs.StringVar(&s.JWKSURI, "service-account-jwks-uri", s.JWKSURI, "URI of the key set in the discovery document.")
	fs.DurationVar(&s.MaxExpiration, "service-account-max-token-expiration", s.MaxExpiration, "Longest validity of a token.")
	fs.BoolVar(&s.ExtendExpiration, "service-account-extend-token-expiration", s.ExtendExpiration, "Let projected tokens outlive their stated expiry, for old clients.")
	fs.BoolVar(&s.Lookup, "service-account-lookup", s.Lookup, "Check that the service account of a token still exists.")
}

func (k *KubeletOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&k.CAFile, "kubelet-certificate-authority", k.CAFile, "CA of the kubelets' serving certificates.")
	fs.StringVar(&k.CertFile, "kubelet-client-certificate", k.CertFile, "Client certificate shown to kubelets.")
	fs.StringVar(&k.KeyFile, "kubelet-client-key", k.KeyFile, "Key of the client certificate shown to kubelets.")
	fs.StringSliceVar(&k.PreferredAddressTypes, "kubelet-preferred-address-types", k.PreferredAddressTypes, "Order of node address types.")
	fs.UintVar(&k.Port, "kubelet-port", k.Port, "Port of kubelets that do not report one.")
	fs.DurationVar(&k.Timeout, "kubelet-timeout", k.Timeout, "Time limit of connecting to a kubelet.")
}

func (p *ProxyOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&p.ClientCertFile, "proxy-client-cert-file", p.ClientCertFile, "Client certificate shown to aggregated API servers.")
	fs.StringVar(&p.ClientKeyFile, "proxy-client-key-file", p.ClientKeyFile, "Key of that certificate.")
	fs.BoolVar(&p.RejectRedirects, "aggregator-reject-forwarding-redirect", p.RejectRedirects, "Do not pass on redirects of aggregated servers.")
	fs.BoolVar(&p.EndpointRouting, "enable-aggregator-routing", p.EndpointRouting, "Reach aggregated servers by endpoint rather than cluster IP.")
}

func (o *Options) addServiceFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ServiceClusterIPRange, "service-cluster-ip-range", o.ServiceClusterIPRange, "CIDR of service IPs, or one of each IP family.")
	fs.Var(&o.ServiceNodePortRange, "service-node-port-range", "Ports for services of type NodePort.")
	fs.IntVar(&o.KubernetesServiceNodePort, "kubernetes-service-node-port", o.KubernetesServiceNodePort, "Node port of the service kubernetes; 0 for none.")
}

// serviceCIDRs parses ServiceClusterIPRange: one network, or two of different families.
func (o *Options) serviceCIDRs() ([]*net.IPNet, error) {
	cidrs, err := utilnet.ParseCIDRs(splitList(o.ServiceClusterIPRange))
	if err != nil || len(cidrs) == 0 {
		return nil, fmt.Errorf("--service-cluster-ip-range %q: %w", o.ServiceClusterIPRange, orMissing(err))
	}
	if len(cidrs) > 2 {
		return nil, fmt.Errorf("--service-cluster-ip-range %q: at most two networks", o.ServiceClusterIPRange)
	}
	if dual, err := utilnet.IsDualStackCIDRs(cidrs); len(cidrs) == 2 && (err != nil || !dual) {
		return nil, fmt.Errorf("--service-cluster-ip-range %q: two networks must be of different IP families", o.ServiceClusterIPRange)
	}
	return cidrs, nil
}
