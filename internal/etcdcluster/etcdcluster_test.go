package etcdcluster_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	etcdserverpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"keelson.dev/internal/etcdcluster"
)

const (
	first  = "https://10.0.0.1:2380"
	second = "https://10.0.0.2:2380"
)

// silent is an etcd that makes the first change that it is asked for and never answers it.
type silent struct {
	etcdserverpb.UnimplementedClusterServer

	mu      sync.Mutex
	members []*etcdserverpb.Member
	changes int
}

func (s *silent) MemberList(context.Context, *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &etcdserverpb.MemberListResponse{Members: s.members}, nil
}

func (s *silent) MemberAdd(ctx context.Context, r *etcdserverpb.MemberAddRequest) (*etcdserverpb.MemberAddResponse, error) {
	s.mu.Lock()
	s.members = append(s.members, &etcdserverpb.Member{ID: uint64(len(s.members)) + 1, PeerURLs: r.PeerURLs, IsLearner: r.IsLearner})
	s.changes++
	s.mu.Unlock()
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *silent) MemberRemove(ctx context.Context, r *etcdserverpb.MemberRemoveRequest) (*etcdserverpb.MemberRemoveResponse, error) {
	s.mu.Lock()
	for i, m := range s.members {
		if m.ID == r.ID {
			s.members = append(s.members[:i:i], s.members[i+1:]...)
			s.changes++
			s.mu.Unlock()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	s.mu.Unlock()
	return nil, rpctypes.ErrGRPCMemberNotFound
}

// serve returns the endpoints of the etcd.
func serve(t *testing.T, s *silent) []string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	etcdserverpb.RegisterClusterServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return []string{"http://" + listener.Addr().String()}
}

func TestAddIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := &silent{members: []*etcdserverpb.Member{{ID: 1, Name: "first", PeerURLs: []string{first}}}}
	endpoints := serve(t, s)
	if all, err := etcdcluster.Add(t.Context(), endpoints, etcdcluster.Credentials{}, "second", second); err == nil {
		t.Fatalf("a change that was not answered: %s", all)
	}
	all, err := etcdcluster.Add(t.Context(), endpoints, etcdcluster.Credentials{}, "second", second)
	if want := "first=" + first + ",second=" + second; err != nil || all != want {
		t.Errorf("the members are %q, %v, want %q", all, err, want)
	}
	if s.changes != 1 {
		t.Errorf("the member was added %d times", s.changes)
	}
}

func TestRemoveIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := &silent{members: []*etcdserverpb.Member{{ID: 1, Name: "first", PeerURLs: []string{first}}, {ID: 2, Name: "second", PeerURLs: []string{second}}}}
	endpoints := serve(t, s)
	if err := etcdcluster.Remove(t.Context(), endpoints, etcdcluster.Credentials{}, "second"); err != nil {
		t.Fatal(err)
	}
	if len(s.members) != 1 || s.members[0].Name != "first" {
		t.Errorf("the members are %v", s.members)
	}
	if err := etcdcluster.Remove(t.Context(), endpoints, etcdcluster.Credentials{}, "second"); !errors.Is(err, etcdcluster.ErrNotFound) {
		t.Errorf("a member that is gone: %v", err)
	}
}
