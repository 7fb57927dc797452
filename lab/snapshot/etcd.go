package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// socketName is where a server's etcd listens in its data folder.
const socketName = "client.sock"

// revisionBump goes onto the revision of what is restored, so that no client has seen a later one: etcd's own advice is more than was
// written since, and this is a hundred writes a second for four months.
const revisionBump = 1_000_000_000

// Dial connects to the etcd of a server by the socket in its data folder, whose path may be longer than sockets' paths may be. The
// returned function ends it.
func Dial(dataDir string) (*clientv3.Client, func(), error) {
	dir, err := os.Open(dataDir)
	if err != nil {
		return nil, nil, fmt.Errorf("reach etcd: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{fmt.Sprintf("unix:///proc/self/fd/%d/%s", dir.Fd(), socketName)}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		dir.Close()
		return nil, nil, fmt.Errorf("reach etcd: %w", err)
	}
	return client, func() { client.Close(); dir.Close() }, nil
}

// FetchDatabase writes the database as it is now into a file beside path, consistent in itself, and returns its name.
func FetchDatabase(ctx context.Context, client *clientv3.Client, beside string) (string, error) {
	stream, err := client.SnapshotWithVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("fetch etcd's snapshot: %w", err)
	}
	defer stream.Snapshot.Close()
	if err := os.MkdirAll(filepath.Dir(beside), 0o700); err != nil {
		return "", fmt.Errorf("fetch etcd's snapshot: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(beside), "."+filepath.Base(beside)+".db-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("fetch etcd's snapshot: %w", err)
	}
	_, err = io.Copy(file, stream.Snapshot)
	if err := errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return "", fmt.Errorf("fetch etcd's snapshot: %w", err)
	}
	return file.Name(), nil
}

// addresses are the keys that say where API servers are. In a cluster restored beside the one that was saved they would lead its pods to
// the other one, which trusts them; API servers write them anew.
var addresses = []string{"/registry/masterleases/", "/registry/services/endpoints/default/kubernetes", "/registry/endpointslices/default/kubernetes"}

// RestoreDatabase makes the data folder of a server, the only member of a new etcd cluster, out of a database that FetchDatabase wrote.
// Its checksum is verified.
func RestoreDatabase(ctx context.Context, db, dataDir string) error {
	staged := filepath.Join(filepath.Dir(db), "etcd.restored")
	if err := errors.Join(os.RemoveAll(staged), os.RemoveAll(filepath.Join(dataDir, "member"))); err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	cfg := embed.NewConfig()
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: db, OutputDataDir: staged, Name: cfg.Name, PeerURLs: []string{embed.DefaultInitialAdvertisePeerURLs},
		InitialCluster: cfg.InitialClusterFromName(cfg.Name), InitialClusterToken: cfg.InitialClusterToken,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	if err := forget(ctx, staged, addresses); err != nil {
		return fmt.Errorf("restore etcd: %w", err)
	}
	return errors.Join(os.Rename(filepath.Join(staged, "member"), filepath.Join(dataDir, "member")), os.RemoveAll(staged))
}

// forget deletes keys of a member that does not run, by running it for that long where nobody reaches it.
func forget(ctx context.Context, dataDir string, prefixes []string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.ZapLoggerBuilder = dataDir, embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer member.Close()
	select {
	case <-member.Server.ReadyNotify():
	case err := <-member.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	client := v3client.New(member.Server)
	defer client.Close()
	for _, prefix := range prefixes {
		if _, err := client.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
			return err
		}
	}
	return nil
}
