// Package etcdcluster adds members to a running etcd cluster and removes them.
package etcdcluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	etcdserverpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Credentials are the files by which members and their clients know each other. A member's own socket needs none.
type Credentials struct{ CAFile, CertFile, KeyFile string }

func (c Credentials) tls() (*tls.Config, error) {
	if c == (Credentials{}) {
		return nil, nil
	}
	info := transport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}
	config, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read etcd client certificate: %w", err)
	}
	return config, nil
}

// Add makes the member called name, with that peer URL, a learner of the cluster that the endpoints (client URLs) belong to, and returns
// what the member has to be started with: all members, as name=peerURL with commas between. It can be called again after it failed or
// was killed. A member of that peer URL that has been running is replaced: whoever asks to be added has no data.
func Add(ctx context.Context, endpoints []string, credentials Credentials, name, peerURL string) (string, error) {
	client, members, err := connect(ctx, endpoints, credentials)
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, ChangeTimeout)
	defer cancel()
	former := slices.IndexFunc(members, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) })
	if former >= 0 && members[former].Name != "" { // a member that has never started has no name
		if _, err := client.MemberRemove(ctx, members[former].ID); err != nil {
			return "", fmt.Errorf("remove etcd member %s, which has lost its data: %w", members[former].Name, err)
		}
		former = -1
	}
	if former < 0 {
		added, err := client.MemberAddAsLearner(ctx, []string{peerURL})
		if err != nil {
			return "", fmt.Errorf("add etcd member %s: %w", name, err)
		}
		members = added.Members
	}
	var all []string
	for _, m := range members {
		for _, url := range m.PeerURLs {
			if url == peerURL {
				m.Name = name
			}
			all = append(all, m.Name+"="+url)
		}
	}
	return strings.Join(all, ","), nil
}

// ChangeTimeout is how long one change of the membership may take, and what is given up then has to be tried again: raft drops a change
// that is proposed while another is under way, and etcd does not answer a request whose change was dropped, ever.
const ChangeTimeout = 5 * time.Second

// ErrNotFound says that the cluster has no such member.
var ErrNotFound = errors.New("no such etcd member")

// Remove takes the member called name out of the cluster. The error is an ErrNotFound if there is none.
func Remove(ctx context.Context, endpoints []string, credentials Credentials, name string) error {
	client, members, err := connect(ctx, endpoints, credentials)
	if err != nil {
		return err
	}
	defer client.Close()
	i := slices.IndexFunc(members, func(m *etcdserverpb.Member) bool { return m.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, ChangeTimeout)
		_, err := client.MemberRemove(attempt, members[i].ID)
		givenUp := attempt.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotFound):
			return nil
		case !givenUp:
			return fmt.Errorf("remove etcd member %s: %w", name, err)
		}
	}
}

// Dial returns a client of the cluster that the endpoints (client URLs) belong to.
func Dial(ctx context.Context, endpoints []string, credentials Credentials) (*clientv3.Client, error) {
	config, err := credentials.tls()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: config, DialTimeout: dialTimeout, Logger: zap.NewNop(), Context: ctx})
	if err != nil {
		return nil, fmt.Errorf("build etcd client: %w", err)
	}
	return client, nil
}

// dialTimeout is how long one endpoint may take to answer.
const dialTimeout = 3 * time.Second

// connect returns a client of the first endpoint that answers, and the members that it names: some endpoints may belong to machines that are
// gone.
func connect(ctx context.Context, endpoints []string, credentials Credentials) (*clientv3.Client, []*etcdserverpb.Member, error) {
	var failures []error
	for _, endpoint := range endpoints {
		client, err := Dial(ctx, []string{endpoint}, credentials)
		if err != nil {
			return nil, nil, err
		}
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		list, err := client.MemberList(attempt) // linearizable: it has a leader
		cancel()
		if err == nil {
			return client, list.Members, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", endpoint, err), client.Close())
	}
	return nil, nil, fmt.Errorf("no etcd member answers: %w", errors.Join(failures...))
}
