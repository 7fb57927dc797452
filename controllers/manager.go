// Package controllers is the controller manager: one process, one shared cache, and the visible list of all controllers that keep
// the promises of a cluster.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/config"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"keelson.dev/controllers/admissionpolicy"
	"keelson.dev/controllers/attachdetach"
	"keelson.dev/controllers/bootstrap"
	"keelson.dev/controllers/certificates"
	"keelson.dev/controllers/clusterroles"
	"keelson.dev/controllers/cronjob"
	"keelson.dev/controllers/daemonset"
	"keelson.dev/controllers/deployment"
	"keelson.dev/controllers/devicetainteviction"
	"keelson.dev/controllers/disruption"
	"keelson.dev/controllers/endpoints"
	"keelson.dev/controllers/endpointslice"
	"keelson.dev/controllers/endpointslicemirroring"
	"keelson.dev/controllers/env"
	"keelson.dev/controllers/ephemeralvolume"
	"keelson.dev/controllers/garbagecollector"
	"keelson.dev/controllers/job"
	"keelson.dev/controllers/namespace"
	"keelson.dev/controllers/nodettl"
	"keelson.dev/controllers/persistentvolume"
	"keelson.dev/controllers/podautoscaler"
	"keelson.dev/controllers/replicaset"
	"keelson.dev/controllers/replicationcontroller"
	"keelson.dev/controllers/resourceclaim"
	"keelson.dev/controllers/resourcequota"
	"keelson.dev/controllers/rootca"
	"keelson.dev/controllers/serviceaccount"
	"keelson.dev/controllers/servicecidr"
	"keelson.dev/controllers/statefulset"
	"keelson.dev/controllers/storagemigration"
	"keelson.dev/controllers/tainteviction"
	"keelson.dev/controllers/ttlafterfinished"
	"keelson.dev/controllers/volumeexpansion"
	"keelson.dev/controllers/volumeprotection"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/leadership"
	"keelson.dev/internal/secureserving"
)

// Config is what the controller manager needs to know of its cluster. Zero values mean upstream's defaults.
type Config struct {
	// Serving is the port of health and metrics.
	Serving    secureserving.Config
	RESTConfig *rest.Config
	// Leader says whether, and by which Lease, one of several processes is chosen.
	Leader config.LeaderElectionConfiguration
	// Identity is the name in the Lease. A name that stays the same over a restart lets the restarted process go on at once; two
	// processes must not share it. Empty: the host name and a random part.
	Identity string

	ServiceAccountKeyFile  string // private key that signs the tokens of token secrets; empty: no token secrets
	RootCAFile             string // published in each namespace as ConfigMap kube-root-ca.crt; empty: the CA of RESTConfig
	ClusterSigningCertFile string // CA that signs certificate signing requests; empty: none are signed
	ClusterSigningKeyFile  string
	ClusterSigningDuration time.Duration // longest life of a signed certificate; 0: one year

	ClusterCIDRs         []string // pod ranges, one per IP family, out of which nodes get theirs; empty: nodes get none
	ServiceCIDRs         []string
	NodeCIDRMaskSize     int // IPv4; 0: 24
	NodeCIDRMaskSizeIPv6 int // 0: 64

	NodeMonitorGracePeriod time.Duration // silence of a node until it counts as unreachable; 0: 50 s

	LoadBalancerCIDR string // range of the nodes' network out of which Services of type LoadBalancer get addresses; empty: they get none

	TerminatedPodGCThreshold int // finished pods kept in the cluster; 0: 12500

	// UseServiceAccountCredentials has each controller act as a service account of its own in kube-system, with the rights of the default
	// role system:controller:ACCOUNT. What all share (caches, events, the lease) stays with the identity of RESTConfig.
	UseServiceAccountCredentials bool

	// Controllers says which run, as kube-controller-manager's flag does: "*" is all, "-name" is all but that one; empty: all.
	Controllers []string
}

// enabled tells whether the named controller runs; an entry for the name itself, or for name-controller as upstream has it, wins
// over "*".
func (c *Config) enabled(name string) bool {
	has := func(entry string) bool {
		return slices.Contains(c.Controllers, entry) || slices.Contains(c.Controllers, entry+"-controller")
	}
	if has("-" + name) {
		return false
	}
	return len(c.Controllers) == 0 || slices.Contains(c.Controllers, "*") || has(name)
}

// registration is a line of the list: add wires one controller. account is the service account in kube-system that it acts as with
// UseServiceAccountCredentials, which a role of the same name is bound to; none: it acts as the process.
type registration struct {
	name, account string
	add           func(*env.Env, *Config) error
}

// workers wires a controller that needs nothing but a number of workers.
func workers(n int, add func(*env.Env, int) error) func(*env.Env, *Config) error {
	return func(e *env.Env, _ *Config) error { return add(e, n) }
}

// list is all controllers, in the order in which they are wired.
func list() []registration {
	return []registration{
		{"namespace", "namespace-controller", workers(10, namespace.Add)},
		{"serviceaccount", "service-account-controller", workers(5, serviceaccount.Add)},
		{"serviceaccount-token", "", addTokens},
		{"root-ca-certificate-publisher", "root-ca-cert-publisher", addRootCA},
		{"kube-apiserver-serving-clustertrustbundle-publisher", "kube-apiserver-serving-clustertrustbundle-publisher", addTrustBundle},
		{"bootstrap-signer", "bootstrap-signer", func(e *env.Env, _ *Config) error { return bootstrap.AddSigner(e) }},
		{"token-cleaner", "token-cleaner", func(e *env.Env, _ *Config) error { return bootstrap.AddCleaner(e) }},

		{"deployment", "deployment-controller", workers(10, deployment.Add)},
		{"replicaset", "replicaset-controller", workers(10, replicaset.Add)},
		{"daemonset", "daemon-set-controller", workers(5, daemonset.Add)},
		{"statefulset", "statefulset-controller", workers(5, statefulset.Add)},
		{"replicationcontroller", "replication-controller", workers(5, replicationcontroller.Add)},
		{"job", "job-controller", workers(10, job.Add)},
		{"cronjob", "cronjob-controller", workers(5, cronjob.Add)},
		{"ttl-after-finished", "ttl-after-finished-controller", workers(2, ttlafterfinished.Add)},

		{"horizontal-pod-autoscaler", "horizontal-pod-autoscaler", workers(5, podautoscaler.Add)},
		{"disruption", "disruption-controller", workers(5, disruption.Add)},
		{"resourcequota", "resourcequota-controller", workers(5, resourcequota.Add)},
		{"persistentvolume-binder", "persistent-volume-binder", workers(4, persistentvolume.Add)},
		{"ephemeral-volume", "ephemeral-volume-controller", workers(2, ephemeralvolume.Add)},
		{"persistentvolumeclaim-protection", "pvc-protection-controller", workers(2, volumeprotection.AddClaims)},
		{"persistentvolume-protection", "pv-protection-controller", workers(2, volumeprotection.AddVolumes)},
		{"volumeattributesclass-protection", "volumeattributesclass-protection-controller", workers(2, volumeprotection.AddClasses)},
		{"persistentvolume-attach-detach", "attachdetach-controller", workers(4, attachdetach.Add)},
		{"persistentvolume-expander", "expand-controller", workers(2, volumeexpansion.Add)},
		{"resourceclaim", "resource-claim-controller", workers(4, resourceclaim.Add)},
		{"clusterrole-aggregation", "clusterrole-aggregation-controller", workers(1, clusterroles.Add)},

		{"endpointslice", "endpointslice-controller", workers(5, endpointslice.Add)},
		{"endpoints", "endpoint-controller", workers(5, endpoints.Add)},

		{"endpointslice-mirroring", "endpointslicemirroring-controller", workers(2, endpointslicemirroring.Add)},
		{"service-lb", "service-controller", addLoadBalancer},
		{"service-cidr", "service-cidrs-controller", workers(2, servicecidr.Add)},
		{"storage-version-migrator", "storage-version-migrator-controller", workers(2, storagemigration.Add)},
		{"validatingadmissionpolicy-status", "validatingadmissionpolicy-status-controller", workers(2, admissionpolicy.Add)},

		{"node-ipam", "node-controller", addNodeIPAM},
		{"node-lifecycle", "node-controller", addNodeLifecycle},
		{"ttl", "ttl-controller", workers(2, nodettl.Add)},
		{"taint-eviction", "node-controller", workers(8, tainteviction.Add)},
		{"device-taint-eviction", "device-taint-eviction-controller", workers(8, devicetainteviction.Add)},
		{"pod-garbage-collector", "pod-garbage-collector", addPodGC},

		{"certificatesigningrequest-approving", "certificate-controller", workers(2, certificates.AddApprover)},
		{"certificatesigningrequest-signing", "certificate-controller", addSigner},
		{"certificatesigningrequest-cleaner", "certificate-controller", func(e *env.Env, _ *Config) error { return certificates.AddCleaner(e) }},

		{"podcertificaterequest-cleaner", "podcertificaterequestcleaner", func(e *env.Env, _ *Config) error { return certificates.AddPodCleaner(e) }},

		// Last: it uses the informers that the others have asked for.
		{"garbage-collector", "generic-garbage-collector", workers(20, garbagecollector.Add)},
	}
}

// partial are the kinds of which the cache holds only what a controller looks at; others of them are read live where needed.
var partial = map[client.Object]cache.ByObject{
	&corev1.ConfigMap{}:     {Field: fields.OneTermEqualSelector("metadata.name", rootca.Name)},
	&coordinationv1.Lease{}: {Field: fields.OneTermEqualSelector("metadata.namespace", corev1.NamespaceNodeLease)},
}

// LeaseName is the name of the Lease in kube-system that the one of several processes holds which works.
const LeaseName = "kube-controller-manager"

// Run runs all controllers until ctx is done, and returns nil then. An error means that they cannot go on. With leader election it
// waits for the lease first, and answers with leadership.ErrLost when that is gone; it may then be called again.
func Run(ctx context.Context, cfg Config) error {
	applyDefaults(&cfg)
	ctrllog.SetLogger(klog.FromContext(ctx))
	restConfig := apiclient.Config(cfg.RESTConfig, "controller-manager")
	restConfig.WarningHandler = rest.NoWarnings{} // they are for people who choose API versions
	if !cfg.Leader.LeaderElect {
		return run(ctx, cfg, restConfig)
	}
	elections := rest.CopyConfig(restConfig) // of connections of its own: a renewal never waits behind other requests
	elections.UserAgent += "/leader-election"
	elections.Timeout = cfg.Leader.RenewDeadline.Duration / 2
	client, err := apiclient.Clientset(elections)
	if err != nil {
		return err
	}
	// Caches start with the lease, not before: one that was filled earlier may lag behind what the last leader wrote.
	gate := &leadership.Gate{}
	gated := rest.CopyConfig(restConfig)
	gated.Wrap(gate.Wrap)
	return leadership.Run(ctx, client, cfg.Leader, cfg.Identity, gate, func(ctx context.Context) error { return run(ctx, cfg, gated) })
}

func run(ctx context.Context, cfg Config, restConfig *rest.Config) error {
	mgr, err := ctrl.NewManager(restConfig, options(ctx))
	if err != nil {
		return fmt.Errorf("build manager: %w", err)
	}
	e, err := env.New(mgr, slices.Collect(maps.Keys(partial)))
	if err != nil {
		return err
	}
	cfg.Serving.Client = e.Clientset
	if err := mgr.Add(port{cfg.Serving}); err != nil {
		return fmt.Errorf("add port: %w", err)
	}
	actors := actors{process: e}
	for _, c := range list() {
		if !cfg.enabled(c.name) {
			continue
		}
		actor := e
		if cfg.UseServiceAccountCredentials && c.account != "" {
			if actor, err = actors.as(c.account); err != nil {
				return fmt.Errorf("act as %s: %w", c.account, err)
			}
		}
		if err := c.add(actor, &cfg); err != nil {
			return fmt.Errorf("add controller %s: %w", c.name, err)
		}
	}
	if err := start(ctx, mgr); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

// shutdown bounds how long controllers may take to finish what they do.
const shutdown = 5 * time.Second

// start runs the manager until ctx is done. A manager that is stopped while it still starts waits for ever for what did not start:
// it is left behind then.
func start(ctx context.Context, mgr ctrl.Manager) error {
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(shutdown + time.Second):
		klog.FromContext(ctx).Info("Controllers were stopped while they started")
		return nil
	}
}

func applyDefaults(cfg *Config) {
	orDuration := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	orInt := func(i *int, value int) {
		if *i == 0 {
			*i = value
		}
	}
	orDuration(&cfg.ClusterSigningDuration, 365*24*time.Hour)
	orDuration(&cfg.NodeMonitorGracePeriod, 50*time.Second)
	orInt(&cfg.NodeCIDRMaskSize, 24)
	orInt(&cfg.NodeCIDRMaskSizeIPv6, 64)
	orInt(&cfg.TerminatedPodGCThreshold, 12500)
}

func options(ctx context.Context) ctrl.Options {
	return ctrl.Options{
		Scheme:                  scheme.Scheme,
		Logger:                  klog.FromContext(ctx),
		BaseContext:             func() context.Context { return ctx },
		Metrics:                 server.Options{BindAddress: "0"},
		GracefulShutdownTimeout: new(shutdown),
		Controller:              ctrlconfig.Controller{SkipNameValidation: new(true)},
		Cache: cache.Options{
			DefaultTransform:             cache.TransformStripManagedFields(),
			DefaultUnsafeDisableDeepCopy: new(true), // internal/lister says so too: copy before you change
			ByObject:                     partial,
		},
		// Reads of this client go to the API server. Cached reads are those of env.Lister.
		NewClient: func(cfg *rest.Config, opts client.Options) (client.Client, error) {
			opts.Cache = nil
			return client.New(cfg, opts)
		},
	}
}
