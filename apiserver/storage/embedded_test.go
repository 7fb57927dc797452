package storage

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sync/errgroup"

	"keelson.dev/internal/etcdcluster"
	"keelson.dev/internal/pki"
)

// TestMembersJoin makes three members of one, replaces one that lost its data, and starts one again from its own.
func TestMembersJoin(t *testing.T) {
	certificates := t.TempDir()
	if err := pki.EnsureServer(certificates, pki.Server{Name: "localhost", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	member := func(name string, join ...string) MemberOptions {
		dir, err := os.MkdirTemp("", "etcd") //nolint:usetesting // the path of its socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		peers := []string{freeURL(t)}
		return MemberOptions{
			DataDir: dir, Name: name, ListenClientURLs: []string{freeURL(t)}, ListenPeerURLs: peers, AdvertisePeerURLs: peers, Join: join,
			CAFile: filepath.Join(certificates, "etcd/ca.crt"), CertFile: filepath.Join(certificates, "etcd/server.crt"),
			KeyFile: filepath.Join(certificates, "etcd/server.key"), UnsafeNoFsync: true, QuotaBytes: 1 << 30,
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	start := func(o MemberOptions) *Member {
		t.Helper()
		m, err := StartMember(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := member("one")
	one := start(first)
	defer one.Close()
	write(ctx, t, one, "before")

	options := []MemberOptions{member("two", first.ListenClientURLs...), member("three", first.ListenClientURLs...)}
	members := make([]*Member, len(options))
	var group errgroup.Group // at once: the cluster takes one learner at a time
	for i, o := range options {
		group.Go(func() (err error) {
			members[i], err = StartMember(ctx, o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, m := range members {
		if got := read(ctx, t, m); !slices.Equal(got, []string{"before"}) {
			t.Errorf("%s has %v", options[i].Name, got)
		}
	}
	checkMembers(ctx, t, one, "one", "three", "two")

	members[0].Close()
	write(ctx, t, one, "two is away")
	members[0] = start(options[0])
	if got := read(ctx, t, members[0]); !slices.Equal(got, []string{"before", "two is away"}) {
		t.Errorf("after its restart two has %v", got)
	}

	members[0].Close()
	if err := os.RemoveAll(filepath.Join(options[0].DataDir, "member")); err != nil {
		t.Fatal(err)
	}
	members[0] = start(options[0])
	defer members[0].Close()
	checkMembers(ctx, t, one, "one", "three", "two")

	credentials := etcdcluster.Credentials{CAFile: first.CAFile, CertFile: first.CertFile, KeyFile: first.KeyFile}
	endpoints := slices.Concat(options[1].ListenClientURLs, first.ListenClientURLs)
	members[1].Close()
	if err := etcdcluster.Remove(ctx, endpoints, credentials, "three"); err != nil {
		t.Fatal(err)
	}
	checkMembers(ctx, t, one, "one", "two")
	write(ctx, t, members[0], "without three")
	if got := read(ctx, t, one); !slices.Equal(got, []string{"before", "two is away", "without three"}) {
		t.Errorf("one has %v", got)
	}
}

func checkMembers(ctx context.Context, t *testing.T, m *Member, want ...string) {
	t.Helper()
	list, err := v3client.New(m.etcd.Server).MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range list.Members {
		if m.IsLearner {
			m.Name += " (learner)"
		}
		got = append(got, m.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("members are %v, want %v", got, want)
	}
}

func write(ctx context.Context, t *testing.T, m *Member, value string) {
	t.Helper()
	client := v3client.New(m.etcd.Server)
	for number := range 100 { // a leader may be being elected
		_, err := client.Put(ctx, fmt.Sprintf("/%d", time.Now().UnixNano()), value)
		if err == nil {
			return
		}
		if number == 99 || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// read returns all values in the order of their keys.
func read(ctx context.Context, t *testing.T, m *Member) []string {
	t.Helper()
	response, err := v3client.New(m.etcd.Server).Get(ctx, "/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, kv := range response.Kvs {
		values = append(values, string(kv.Value))
	}
	return values
}

func freeURL(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "https://127.0.0.1:" + strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}
