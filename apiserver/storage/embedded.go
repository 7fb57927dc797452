// Package storage is the API server's way to etcd: an embedded member for clusters that bring no etcd of their own, and the
// factory that says where and how each kind is stored.
package storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"keelson.dev/internal/etcdcluster"
)

// MemberOptions describes the embedded etcd member. The zero value of every field but DataDir means a cluster of one that
// nobody but this process can reach.
type MemberOptions struct {
	DataDir string
	Name    string
	// ListenClientURLs are further client addresses, for tools and for other API servers. The member itself is always reached
	// by a unix socket in DataDir, which file permissions protect. The first is the one that is told to others.
	ListenClientURLs []string
	// ListenPeerURLs and AdvertisePeerURLs serve the other members of a cluster of several.
	ListenPeerURLs, AdvertisePeerURLs []string
	InitialCluster                    string // name=peerURL,…; empty: this member alone
	// Join are client URLs of members of a running cluster. A member without data is added to it, as a learner first and as a voter
	// once it has caught up; its InitialCluster is what the cluster says.
	Join []string
	// CAFile, CertFile and KeyFile secure the URLs above in both directions.
	CAFile, CertFile, KeyFile string
	// UnsafeNoFsync trades durability for speed: for test runs only.
	UnsafeNoFsync bool
	QuotaBytes    int64
}

// NewMemberOptions returns the defaults.
func NewMemberOptions() MemberOptions {
	return MemberOptions{DataDir: "/var/lib/keelson/etcd", Name: "default", QuotaBytes: 8 << 30}
}

// Member is a running embedded etcd member.
type Member struct {
	etcd *embed.Etcd
}

// entriesOfOne is how many entries of its log a member keeps in memory that no other member can fall behind: etcd's 5,000 would be
// 20 MB of what was written last.
const entriesOfOne = 100

// entriesOfSeveral is how far another member may fall behind until it needs a whole snapshot.
const entriesOfSeveral = 1000

const socketName = "client.sock"

// maxSocketPath is what the kernel takes for the path of a unix socket.
const maxSocketPath = 107

// StartMember starts a member and returns once it serves requests.
func StartMember(ctx context.Context, o MemberOptions) (*Member, error) {
	if len(o.Join) > 0 && !wal.Exist(datadir.ToWALDir(o.DataDir)) {
		if err := o.join(ctx); err != nil {
			return nil, err
		}
	}
	cfg, socket, err := memberConfig(o)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create etcd data directory: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier etcd: %w", err)
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", o.DataDir, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
		m := &Member{etcd: etcd}
		if err := m.settle(ctx, cfg.AdvertisePeerUrls); err != nil {
			m.Close()
			return nil, err
		}
		return m, nil
	case err := <-etcd.Err():
		etcd.Close()
		return nil, fmt.Errorf("run embedded etcd: %w", err)
	case <-etcd.Server.StopNotify():
		etcd.Close()
		return nil, errors.New("embedded etcd stopped while it started")
	case <-ctx.Done():
		etcd.Close()
		return nil, fmt.Errorf("start embedded etcd: %w", context.Cause(ctx))
	}
}

// retryJoin is how often what the cluster is not ready for yet is tried again: it takes one learner at a time, and only a healthy
// cluster takes any.
const retryJoin = 200 * time.Millisecond

// join has the running cluster expect this member.
func (o *MemberOptions) join(ctx context.Context) error {
	if len(o.AdvertisePeerURLs) != 1 {
		return errors.New("join an etcd cluster: one advertised peer URL is needed")
	}
	credentials := etcdcluster.Credentials{CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile}
	return persist(ctx, "join the etcd cluster", func() (bool, error) {
		all, err := etcdcluster.Add(ctx, o.Join, credentials, o.Name, o.AdvertisePeerURLs[0])
		o.InitialCluster = all
		return true, err
	})
}

// settle makes the running member known by the peer URLs that it has now, and a voter.
func (m *Member) settle(ctx context.Context, peers []url.URL) error {
	server := m.etcd.Server
	var urls []string
	for _, u := range peers {
		urls = append(urls, u.String())
	}
	err := persist(ctx, "update peer URLs of the embedded etcd", func() (bool, error) {
		self := server.Cluster().Member(server.MemberID())
		if len(urls) == 0 || self == nil || slices.Equal(self.PeerURLs, urls) {
			return true, nil
		}
		attempt, cancel := context.WithTimeout(ctx, etcdcluster.ChangeTimeout)
		defer cancel()
		_, err := server.UpdateMember(attempt, membership.Member{ID: self.ID, RaftAttributes: membership.RaftAttributes{PeerURLs: urls, IsLearner: self.IsLearner}})
		return false, err
	})
	if err != nil {
		return err
	}
	return persist(ctx, "become a voter of the etcd cluster", func() (bool, error) {
		if !server.IsLearner() {
			return true, nil
		}
		attempt, cancel := context.WithTimeout(ctx, etcdcluster.ChangeTimeout)
		defer cancel()
		_, err := server.PromoteMember(attempt, uint64(server.MemberID()))
		return false, err
	})
}

// persist tries until what is to be done is done or ctx ends.
func persist(ctx context.Context, doing string, try func() (done bool, err error)) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, retryJoin, true, func(ctx context.Context) (bool, error) {
		done, err := try()
		if err != nil && (last == nil || err.Error() != last.Error()) {
			klog.FromContext(ctx).Info("Waiting", "to", doing, "err", err)
		}
		last = err
		return done && err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, errors.Join(err, last))
	}
	return nil
}

// Endpoint is the address at which the member of these options serves this process.
func Endpoint(o MemberOptions) string {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil { // StartMember reports it
		dir = o.DataDir
	}
	return "unix://" + filepath.Join(dir, socketName)
}

// Err reports that the member cannot go on.
func (m *Member) Err() <-chan error { return m.etcd.Err() }

// Close stops the member. Its clients must be gone: requests that still run would fail.
func (m *Member) Close() { m.etcd.Close() }

func memberConfig(o MemberOptions) (*embed.Config, string, error) {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, "", fmt.Errorf("etcd data directory: %w", err)
	}
	socket := filepath.Join(dir, socketName)
	if len(socket) > maxSocketPath {
		return nil, "", fmt.Errorf("etcd data directory %s: the path of its socket is longer than %d bytes", dir, maxSocketPath)
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = o.Name, dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quietLogger())
	cfg.UnsafeNoFsync = o.UnsafeNoFsync
	cfg.QuotaBackendBytes = o.QuotaBytes
	cfg.EnableGRPCGateway = false
	// Upstream's cluster manifests poll progress every 5 s; the watch cache asks for it itself.
	cfg.WatchProgressNotifyInterval = 5 * time.Second
	cfg.AutoCompactionRetention = "0" // the API server compacts
	cfg.SnapshotCount = 10000
	cfg.SnapshotCatchUpEntries = entriesOfSeveral
	if len(o.ListenPeerURLs) == 0 {
		cfg.SnapshotCatchUpEntries = entriesOfOne
	}
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls

	if cfg.ListenPeerUrls, err = parseURLs(o.ListenPeerURLs); err != nil {
		return nil, "", fmt.Errorf("etcd peer URLs: %w", err)
	}
	if advertised, err := parseURLs(o.AdvertisePeerURLs); err != nil {
		return nil, "", fmt.Errorf("advertised etcd peer URLs: %w", err)
	} else if len(advertised) > 0 {
		cfg.AdvertisePeerUrls = advertised
	}
	more, err := parseURLs(o.ListenClientURLs)
	if err != nil {
		return nil, "", fmt.Errorf("etcd client URLs: %w", err)
	}
	cfg.ListenClientUrls = append(cfg.ListenClientUrls, more...)
	if len(more) > 0 {
		cfg.AdvertiseClientUrls = more[:1]
	}
	if cfg.InitialCluster = o.InitialCluster; o.InitialCluster == "" {
		cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	}
	if len(o.Join) > 0 {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	if o.CertFile != "" {
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile, cfg.ClientTLSInfo.TrustedCAFile = o.CertFile, o.KeyFile, o.CAFile
		cfg.ClientTLSInfo.ClientCertAuth = true
		cfg.PeerTLSInfo = cfg.ClientTLSInfo
	}
	return cfg, socket, nil
}

func parseURLs(in []string) ([]url.URL, error) {
	var out []url.URL
	for _, s := range in {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, *u)
	}
	return out, nil
}

// quietLogger writes etcd's warnings and errors to standard error: its information level narrates every step of raft.
func quietLogger() *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zap.WarnLevel)).Named("etcd")
}
