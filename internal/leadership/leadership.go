// Package leadership lets one of several processes of a kind work: the one that holds their Lease.
package leadership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/component-base/config"
	"k8s.io/klog/v2"
)

// ErrLost says that the lease was lost: another process may hold it by now.
var ErrLost = errors.New("the lease is lost")

// Defaults are those of upstream's components for the named one.
func Defaults(name string) config.LeaderElectionConfiguration {
	return config.LeaderElectionConfiguration{
		LeaderElect:   true,
		LeaseDuration: metav1.Duration{Duration: 15 * time.Second},
		RenewDeadline: metav1.Duration{Duration: 10 * time.Second},
		RetryPeriod:   metav1.Duration{Duration: 2 * time.Second},
		ResourceLock:  resourcelock.LeasesResourceLock,
		ResourceName:  name, ResourceNamespace: metav1.NamespaceSystem,
	}
}

// Run waits for the lease and then runs work. While the lease is held, and only then, writes pass the gate. A lease that lapses, since it
// could not be renewed in time, and that comes back without another process having held it meanwhile, closes the gate for that long and
// leaves work alone: what work knows is still true. The context of work ends when another process holds the lease, or when ctx is done;
// then the lease is kept until work has returned, and given back. Run returns what work returns, or ErrLost.
func Run(
	ctx context.Context, client kubernetes.Interface, cfg config.LeaderElectionConfiguration, identity string, gate *Gate, work func(context.Context) error,
) error {
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
		identity = fmt.Sprintf("%s_%s_%d", host, uuid.NewUUID(), os.Getpid())
	}
	lock := func() *resourcelock.LeaseLock { // none may be used by two at once
		return &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: cfg.ResourceNamespace, Name: cfg.ResourceName},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		}
	}
	c := &campaign{gate: gate, lock: lock(), look: lock(), leading: make(chan struct{})}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	held, lose := context.WithCancel(running)
	defer lose()
	c.lose = lose
	elected := make(chan error, 1)
	go func() { elected <- c.run(running, cfg) }()
	stop := context.AfterFunc(ctx, lose)
	defer stop()
	var err error
	select {
	case <-ctx.Done():
	case err := <-elected:
		return cmp.Or(err, ErrLost)
	case <-c.leading:
		err = work(held)
	}
	end()
	err = errors.Join(err, <-elected)
	if ctx.Err() == nil {
		return cmp.Or(err, ErrLost)
	}
	if !c.began() {
		return err
	}
	return errors.Join(err, release(context.WithoutCancel(ctx), c.lock, cfg.RenewDeadline.Duration))
}

// campaign holds a lease as long as it can.
type campaign struct {
	gate    *Gate
	lock    *resourcelock.LeaseLock // the elector's
	look    *resourcelock.LeaseLock // to read the lease
	leading chan struct{}           // closed when the lease is held for the first time
	lose    context.CancelFunc      // ends the work

	transitions int // of the lease, when it was held for the first time
}

// run holds the lease again and again until ctx is done or another process has held it.
func (c *campaign) run(ctx context.Context, cfg config.LeaderElectionConfiguration) error {
	defer c.lose()
	for ctx.Err() == nil {
		another, err := c.once(ctx, cfg)
		if err != nil || another {
			return err
		}
	}
	return nil
}

// once holds the lease until it cannot be renewed any more, and tells whether another process has held it.
func (c *campaign) once(ctx context.Context, cfg config.LeaderElectionConfiguration) (bool, error) {
	ctx, over := context.WithCancel(ctx)
	defer over()
	var another atomic.Bool
	var elector *leaderelection.LeaderElector
	begun := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:          cfg.ResourceName,
		Lock:          c.lock,
		LeaseDuration: cfg.LeaseDuration.Duration, RenewDeadline: cfg.RenewDeadline.Duration, RetryPeriod: cfg.RetryPeriod.Duration,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(renewing context.Context) {
				defer close(begun)
				if err := c.begin(renewing, elector); err != nil {
					klog.FromContext(ctx).Info("The lease is of no use", "lease", cfg.ResourceName, "err", err)
					another.Store(errors.Is(err, ErrLost))
					over()
				}
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != c.lock.Identity() && c.began() {
					another.Store(true)
					over()
				}
			},
		},
	})
	if err != nil {
		return false, fmt.Errorf("build leader elector: %w", err)
	}
	elector.Run(ctx)
	if ctx.Err() == nil { // it had the lease and could not renew it
		<-begun
	}
	c.gate.close()
	return another.Load(), nil
}

func (c *campaign) began() bool {
	select {
	case <-c.leading:
		return true
	default:
		return false
	}
}

// begin opens the gate for the time that the elector renews, unless another process has held the lease since the first time.
func (c *campaign) begin(renewing context.Context, elector *leaderelection.LeaderElector) error {
	record, _, err := c.look.Get(renewing)
	if err != nil {
		return fmt.Errorf("read lease: %w", err)
	}
	if c.began() && record.LeaderTransitions != c.transitions {
		return fmt.Errorf("%w: it was another's meanwhile", ErrLost)
	}
	c.gate.open(renewing, func() error {
		if !elector.IsLeader() {
			return fmt.Errorf("%q holds it", elector.GetLeader())
		}
		return elector.Check(0) // is it ours by the clock too?
	})
	if !c.began() {
		c.transitions = record.LeaderTransitions
		close(c.leading)
	}
	return nil
}

// release gives the lease back, so that the next one need not wait for its end. The elector's own way does it while work still runs.
func release(ctx context.Context, lock *resourcelock.LeaseLock, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if err != nil {
		return fmt.Errorf("read lease: %w", err)
	}
	if record.HolderIdentity != lock.Identity() {
		return nil
	}
	record.HolderIdentity, record.LeaseDurationSeconds, record.RenewTime = "", 1, metav1.Now()
	if err := lock.Update(ctx, *record); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}
