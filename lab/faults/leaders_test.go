//go:build e2e

package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"keelson.dev/lab/cluster"
)

// auditPolicy tells all that the components write, and of their Leases what was in them. Reviews are stored nowhere.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: RequestResponse
  users: ["system:kube-controller-manager", "system:kube-scheduler"]
  verbs: [create, update, patch]
  namespaces: [kube-system]
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
- level: None
  resources:
  - {group: authentication.k8s.io}
  - {group: authorization.k8s.io}
- level: Metadata
  users: ["system:kube-controller-manager", "system:kube-scheduler"]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// leaders watches the Leases of the components, whose writes the servers log.
type leaders struct {
	client   kubernetes.Interface
	end      context.CancelFunc
	watching sync.WaitGroup
	watched  map[string][]hold // by Lease
	failed   error
}

// startLeaders has all servers begin anew, with a policy that lets them log what the components write.
func startLeaders(ctx context.Context, config *rest.Config, c *cluster.Cluster) (*leaders, error) {
	for _, m := range c.Members {
		if err := os.WriteFile(c.Node(m).StatePath("/etc/kubernetes/audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
			return nil, err
		}
		if err := killServer(m); err != nil {
			return nil, fmt.Errorf("restart %s: %w", m.Name, err)
		}
		if err := whole(ctx, config, c); err != nil {
			return nil, err
		}
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	leases := client.CoordinationV1().Leases("kube-system")
	list, err := leases.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return leases.Watch(ctx, options)
		},
	})
	if err != nil {
		end()
		return nil, err
	}
	l := &leaders{client: client, end: end, watched: map[string][]hold{}}
	l.watching.Go(func() { l.failed = l.watch(watcher) })
	return l, nil
}

func (l *leaders) watch(watcher watch.Interface) error {
	var errs []error
	for event := range watcher.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if !ok {
			errs = append(errs, fmt.Errorf("watch of leases: %v", event.Object))
			continue
		}
		h, err := holdOf(lease, time.Time{}, time.Now())
		errs = append(errs, err)
		l.watched[lease.Name] = append(l.watched[lease.Name], h)
	}
	return errors.Join(errs...)
}

// holder is the server that holds a Lease.
func (l *leaders) holder(ctx context.Context, name string, c *cluster.Cluster) (cluster.Member, error) {
	var last error
	var member *cluster.Member
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, recovery, true, func(ctx context.Context) (bool, error) {
		var lease *coordinationv1.Lease
		if lease, last = l.client.CoordinationV1().Leases("kube-system").Get(ctx, name, metav1.GetOptions{}); last == nil {
			member, last = c.Member(ptr.Deref(lease.Spec.HolderIdentity, ""))
		}
		return last == nil, nil
	})
	if err != nil {
		return cluster.Member{}, fmt.Errorf("holder of %s: %w", name, errors.Join(err, last))
	}
	return *member, nil
}

func (l *leaders) stop() {
	l.end()
	l.watching.Wait()
}

// records reads the audit logs of all servers.
func (l *leaders) records(t *testing.T, c *cluster.Cluster) (map[string]*records, error) {
	nodes, leases, broken := map[string]string{}, map[string]*records{}, 0
	for _, m := range c.Members {
		nodes[m.Address.String()] = m.Name
	}
	for _, m := range c.Members {
		paths, err := filepath.Glob(c.Node(m).StatePath("/var/log/keelson/audit*"))
		if err != nil {
			return nil, err
		}
		if len(paths) != 1 {
			return nil, fmt.Errorf("the audit log of %s has been set aside, or there is none: %q", m.Name, paths)
		}
		log, err := os.Open(paths[0])
		if err != nil {
			return nil, err
		}
		n, err := read(log, nodes, leases)
		if err := errors.Join(err, log.Close()); err != nil {
			return nil, fmt.Errorf("audit log of %s: %w", m.Name, err)
		}
		broken += n
	}
	if broken > 0 {
		t.Logf("%d broken lines in audit logs", broken)
	}
	return leases, nil
}

func (l *leaders) check(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if l.failed != nil {
		t.Error(l.failed)
	}
	logged, err := l.records(t, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, lease := range slices.Sorted(maps.Values(components)) {
		r := logged[lease]
		if r == nil {
			t.Errorf("no server has logged writes of %s", lease)
			continue
		}
		v := judge(terms(r.holds, l.watched[lease]), r.deeds)
		t.Logf("%s: lease written %d times (%d seen by the watch), handed over %d times; writes by server: %v, %d of them under way at a handover, %d before any known holder",
			lease, len(r.holds), len(l.watched[lease]), v.handovers, v.judged, v.underWay, v.tooEarly)
		for _, usurped := range v.usurped {
			t.Errorf("%s: %s", lease, usurped)
		}
		if v.handovers == 0 || len(v.judged) < 2 {
			t.Errorf("%s: fewer than two servers have had the lease and written: nothing is proven", lease)
		}
	}
}
