package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/apiserver/server"
	"keelson.dev/apiserver/storage"
	"keelson.dev/controllers"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/etcdcluster"
	"keelson.dev/internal/features"
	"keelson.dev/internal/heap"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/leadership"
	"keelson.dev/internal/pki"
	"keelson.dev/internal/secureserving"
	"keelson.dev/scheduler"
)

// serverOptions is what differs between servers.
type serverOptions struct {
	nodeName           string
	address            string
	dataDir            string
	configDir          string // of PKI and kubeconfigs
	clusterCIDR        string
	serviceCIDR        string
	domain             string
	bootstrapTokenFile string
	nodeMonitorGrace   time.Duration
	controllers        []string // that run
	leaderElect        bool
	join               []string // URLs of other servers
	invitation         invitation
	signingDuration    time.Duration
	loadBalancerCIDR   string
	extra              []string // further flags of the API server
	snapshots          schedule
	etcd               [len(etcdFlags)]string
}

// etcdFlags name an etcd cluster that somebody else runs, as the API server's flags do.
var etcdFlags = [...]struct{ name, usage string }{
	{"etcd-servers", "client URLs of an etcd cluster that runs elsewhere, in place of the servers' own"},
	{"etcd-cafile", "authority of the certificates that this etcd shows"},
	{"etcd-certfile", "certificate that is shown to this etcd"},
	{"etcd-keyfile", "key of that certificate"},
}

func serverCommand() *cobra.Command {
	o := serverOptions{dataDir: "/var/lib/keelson", configDir: "/etc/kubernetes"}
	command := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane: API server with etcd, controllers and scheduler in one process",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return o.run(command.Context()) },
	}
	command.AddCommand(serverRemoveCommand())
	flags := command.Flags()
	hostname, _ := os.Hostname()
	flags.StringVar(&o.nodeName, "node-name", hostname, "name of this node")
	flags.StringVar(&o.address, "advertise-address", "", "address under which nodes and clients reach this server")
	flags.StringVar(&o.dataDir, "data-dir", o.dataDir, "folder of the database")
	flags.StringVar(&o.configDir, "config-dir", o.configDir, "folder of certificates and kubeconfigs; what is absent is made")
	flags.StringVar(&o.clusterCIDR, "cluster-cidr", "10.244.0.0/16", "range of pod addresses; each node gets a part")
	flags.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/12", "range of service addresses")
	flags.StringVar(&o.domain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	flags.StringVar(&o.bootstrapTokenFile, "bootstrap-token-file", "", "kubeconfig whose token lets nodes join")
	flags.DurationVar(&o.nodeMonitorGrace, "node-monitor-grace-period", 0, "silence of a node until it counts as unreachable (default 50s)")
	flags.StringVar(&o.loadBalancerCIDR, "load-balancer-cidr", "", "free range of the nodes' network for Services of type LoadBalancer")
	flags.StringSliceVar(&o.controllers, "controllers", []string{"*"}, "controllers to run: * for all, -name for all but that one")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "let controllers and scheduler of one server work at a time")
	flags.StringSliceVar(&o.join, "join", nil, "servers, as https://host:port, of the cluster that this one joins if it has no data")
	flags.StringArrayVar(&o.extra, "apiserver-arg", nil, "further flag of the API server, as --flag=value; may be repeated")
	for i, f := range etcdFlags {
		flags.StringVar(&o.etcd[i], f.name, "", f.usage)
	}
	o.snapshots.addFlags(flags)
	o.invitation.addFlags(flags)
	flags.DurationVar(&o.signingDuration, "cluster-signing-duration", 0, "longest life of a certificate that nodes and others ask for (default 1 year)")
	if err := command.MarkFlagRequired("advertise-address"); err != nil {
		panic(err) // the flag stands above
	}
	return command
}

// serverRemoveCommand is for servers that are gone for good: as long as they count as members, the others need more of each other.
func serverRemoveCommand() *cobra.Command {
	dataDir := "/var/lib/keelson"
	command := &cobra.Command{
		Use: "remove NAME", Short: "Run on another server: take a server out of the etcd cluster; kubectl delete node does the rest", Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			socket := storage.Endpoint(storage.MemberOptions{DataDir: dataDir})
			return etcdcluster.Remove(command.Context(), []string{socket}, etcdcluster.Credentials{}, args[0])
		},
	}
	command.Flags().StringVar(&dataDir, "data-dir", dataDir, "folder of this server's database")
	return command
}

// run starts the API server, and the other components once it is ready. Where one part cannot go on, all end: the supervisor starts
// the process again.
func (o *serverOptions) run(ctx context.Context) error {
	if o.etcd[0] != "" && o.snapshots.interval > 0 {
		return errors.New("--snapshot-interval saves a server's own etcd: one that runs elsewhere is saved with etcdctl snapshot save")
	}
	others, err := hostPorts(o.join)
	if err != nil {
		return fmt.Errorf("--join: %w", err)
	}
	if o.invitation.given() {
		if err := o.invitation.server(ctx, o.pki(""), others); err != nil {
			return err
		}
	}
	if err := o.ensureFiles(); err != nil {
		return err
	}
	options, err := o.apiserver(others)
	if err != nil {
		return err
	}
	heap.Keep(ctx, 64<<20)
	group, ctx := errgroup.WithContext(ctx)
	options.Ready = func(loopback *rest.Config) {
		group.Go(func() error { return o.admitNodes(ctx, loopback) })
		group.Go(func() error { return o.runControllers(ctx) })
		group.Go(func() error { return o.runScheduler(ctx) })
		group.Go(func() error { return o.saveSnapshots(ctx) })
	}
	group.Go(func() error {
		if err := server.Run(ctx, options); err != nil {
			return err
		}
		if ctx.Err() == nil {
			return errors.New("API server ended")
		}
		return nil
	})
	return group.Wait()
}

func (o *serverOptions) pki(name string) string { return filepath.Join(o.configDir, "pki", name) }

func (o *serverOptions) auditPolicy() string { return filepath.Join(o.configDir, "audit-policy.yaml") }

// ensureFiles makes the certificates and the components' kubeconfigs that are absent.
func (o *serverOptions) ensureFiles() error {
	services, err := netip.ParsePrefix(o.serviceCIDR)
	if err != nil {
		return fmt.Errorf("--service-cidr: %w", err)
	}
	address, err := netip.ParseAddr(o.address)
	if err != nil {
		return fmt.Errorf("--advertise-address: %w", err)
	}
	err = pki.EnsureServer(filepath.Join(o.configDir, "pki"), pki.Server{
		Name: o.nodeName, DNSDomain: o.domain,
		IPs: []net.IP{address.AsSlice(), services.Masked().Addr().Next().AsSlice()},
	}, time.Now())
	if err != nil {
		return err
	}
	caPEM, err := os.ReadFile(o.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("read cluster authority: %w", err)
	}
	users := map[string]pki.Request{
		"admin":              {CommonName: "kubernetes-admin", Organizations: []string{"kubeadm:cluster-admins"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
	}
	for name, request := range users {
		pair, err := pki.EnsureClient(filepath.Join(o.configDir, "pki"), name, request, time.Now())
		if err != nil {
			return err
		}
		err = kubeconfig.Write(o.kubeconfig(name), kubeconfig.Entry{
			Name: "kubernetes", User: request.CommonName, Server: "https://" + net.JoinHostPort(o.address, "6443"),
			CAPEM: caPEM, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM,
		})
		if err != nil {
			return err
		}
	}
	return ensureAuditPolicy(o.auditPolicy())
}

// Ports of the embedded etcd, which clients and other members reach with certificates of the etcd authority.
const (
	etcdClientPort = "2379"
	etcdPeerPort   = "2380"
)

func etcdURL(host string) string { return "https://" + net.JoinHostPort(host, etcdClientPort) }

func (o *serverOptions) kubeconfig(name string) string {
	return filepath.Join(o.configDir, name+".conf")
}

// client is the configuration of a component of this process. What it sends and gets does not leave the machine: to compress it
// would be work for nothing.
func (o *serverOptions) client(component string) (*rest.Config, error) {
	config, err := apiclient.FromKubeconfig(o.kubeconfig(component), component)
	if err != nil {
		return nil, err
	}
	config.DisableCompression = true
	return config, nil
}

// apiserver is the API server's configuration, as flags, since people know it by those.
func (o *serverOptions) apiserver(others []string) (*server.Options, error) {
	peers := "https://" + net.JoinHostPort(o.address, etcdPeerPort)
	var join []string
	for _, other := range others {
		host, _, err := net.SplitHostPort(other)
		if err != nil {
			return nil, fmt.Errorf("--join: %w", err)
		}
		join = append(join, etcdURL(host))
	}
	more := auditFlags(o.auditPolicy())
	for i, f := range etcdFlags {
		more = append(more, "--"+f.name+"="+o.etcd[i])
	}
	options := server.NewOptions()
	flags := pflag.NewFlagSet("apiserver", pflag.ContinueOnError)
	options.AddFlags(flags)
	err := flags.Parse(append([]string{
		"--advertise-address=" + o.address,
		"--secure-port=6443",
		"--data-dir=" + o.dataDir,
		"--etcd-name=" + o.nodeName,
		"--etcd-listen-client-urls=" + etcdURL(o.address) + "," + etcdURL("127.0.0.1"), // the one for others, and for who is here
		"--etcd-listen-peer-urls=" + peers,
		"--etcd-initial-advertise-peer-urls=" + peers,
		"--etcd-join=" + strings.Join(join, ","),
		"--etcd-member-cafile=" + o.pki("etcd/ca.crt"),
		"--etcd-member-certfile=" + o.pki("etcd/server.crt"),
		"--etcd-member-keyfile=" + o.pki("etcd/server.key"),
		"--service-cluster-ip-range=" + o.serviceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-bootstrap-token-auth=true",
		"--allow-privileged=true",
		"--client-ca-file=" + o.pki("ca.crt"),
		"--tls-cert-file=" + o.pki("apiserver.crt"),
		"--tls-private-key-file=" + o.pki("apiserver.key"),
		"--kubelet-certificate-authority=" + o.pki("ca.crt"),
		"--kubelet-client-certificate=" + o.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + o.pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--service-account-issuer=https://kubernetes.default.svc." + o.domain,
		"--service-account-key-file=" + o.pki("sa.pub"),
		"--service-account-signing-key-file=" + o.pki("sa.key"),
		"--requestheader-client-ca-file=" + o.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + o.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + o.pki("front-proxy-client.key"),
		"--encryption-provider-config=" + o.pki(pki.EncryptionConfig),
	}, append(more, o.extra...)...))
	if err != nil {
		return nil, fmt.Errorf("API server flags: %w", err)
	}
	return options, features.Apply()
}

// admitNodes gives nodes their rights, and stores the token by which they may ask for their certificates, if there is one. What fails is
// done again: that the database has no majority for a while is no reason to end, which would take one more member from it.
func (o *serverOptions) admitNodes(ctx context.Context, loopback *rest.Config) error {
	client, err := apiclient.Clientset(apiclient.Config(loopback, "server"))
	if err != nil {
		return err
	}
	token := ""
	if o.bootstrapTokenFile != "" {
		bootstrap, err := clientcmd.BuildConfigFromFlags("", o.bootstrapTokenFile)
		if err != nil {
			return fmt.Errorf("read bootstrap token: %w", err)
		}
		token = bootstrap.BearerToken
	}
	_ = wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) { // its error is the end of ctx
		err := o.letNodesProxy(ctx, client)
		if err == nil && token != "" {
			err = bootstraptoken.Ensure(ctx, client, token)
		}
		if err != nil {
			klog.FromContext(ctx).Info("Nodes are not admitted yet", "err", err)
		}
		return err == nil, nil
	})
	return nil
}

// letNodesProxy lets agents watch, with their node's identity, what the service proxy and network policies follow: kubelet, proxy
// and pod network are one process there.
func (o *serverOptions) letNodesProxy(ctx context.Context, client kubernetes.Interface) error {
	const policyRole = "keelson:network-policy"
	roles := client.RbacV1().ClusterRoles()
	watch := []string{"get", "list", "watch"}
	_, err := roles.Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: policyRole},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods", "namespaces"}, Verbs: watch},
			{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: watch},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("let nodes watch network policies: %w", err)
	}
	for binding, role := range map[string]string{"keelson:node-proxier": "system:node-proxier", policyRole: policyRole} {
		_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: binding},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:nodes"}},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("let nodes watch services: %w", err)
		}
	}
	return nil
}

func (o *serverOptions) runControllers(ctx context.Context) error {
	config, err := o.client("controller-manager")
	if err != nil {
		return err
	}
	leader := leadership.Defaults(controllers.LeaseName)
	leader.LeaderElect = o.leaderElect
	return again(ctx, func() error {
		return controllers.Run(ctx, controllers.Config{
			Controllers: o.controllers, Leader: leader, Identity: o.nodeName,
			RESTConfig: config, ServiceAccountKeyFile: o.pki("sa.key"), RootCAFile: o.pki("ca.crt"),
			ClusterSigningCertFile: o.pki("ca.crt"), ClusterSigningKeyFile: o.pki("ca.key"),
			ClusterSigningDuration: o.signingDuration,
			ClusterCIDRs:           []string{o.clusterCIDR}, ServiceCIDRs: []string{o.serviceCIDR},
			NodeMonitorGracePeriod: o.nodeMonitorGrace, LoadBalancerCIDR: o.loadBalancerCIDR, Serving: o.port(10257),
		})
	})
}

// again runs a component that takes turns with those of other servers: API server and database of this process go on when it loses
// its lease, and it waits for its next turn.
func again(ctx context.Context, run func() error) error {
	for {
		err := run()
		if !errors.Is(err, leadership.ErrLost) || ctx.Err() != nil {
			return err
		}
		klog.FromContext(ctx).Info("Waiting for the next turn", "err", err)
	}
}

// port is the port of a component of this process: it shows the same certificate as the API server.
func (o *serverOptions) port(number int) secureserving.Config {
	return secureserving.Config{
		Address: o.address, Port: number, CertFile: o.pki("apiserver.crt"), KeyFile: o.pki("apiserver.key"), ClientCAFile: o.pki("ca.crt"),
	}
}

func (o *serverOptions) runScheduler(ctx context.Context) error {
	config, err := o.client("scheduler")
	if err != nil {
		return err
	}
	leader := leadership.Defaults(scheduler.LeaseName)
	leader.LeaderElect = o.leaderElect
	return again(ctx, func() error {
		return scheduler.Run(ctx, scheduler.Config{RESTConfig: config, Leader: leader, Identity: o.nodeName, Serving: o.port(10259)})
	})
}

func (o *serverOptions) saveSnapshots(ctx context.Context) error {
	s := o.snapshots
	s.dataDir, s.dir, s.pkiDir = o.dataDir, filepath.Join(o.dataDir, "snapshots"), filepath.Join(o.configDir, "pki")
	s.clusterName, s.clock = o.nodeName, clock.RealClock{}
	return s.run(ctx)
}
