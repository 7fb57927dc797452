// Package leadership lets one of several processes of a kind work: the one that holds their Lease.
package leadership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/component-base/config"
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

// Run waits for the lease and then runs work. The context of work ends, and the gate closes, when ctx is done or the lease is lost;
// what work writes has to go through the gate. When ctx is done, the lease is kept until work has returned and then given back.
// Run returns what work returns, or ErrLost.
func Run(ctx context.Context, client kubernetes.Interface, cfg config.LeaderElectionConfiguration, identity string, work func(context.Context, *Gate) error) error {
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
		identity = fmt.Sprintf("%s_%s_%d", host, uuid.NewUUID(), os.Getpid())
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: cfg.ResourceNamespace, Name: cfg.ResourceName},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}
	campaign, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	leading, worked := make(chan struct{}), make(chan error, 1)
	var elector *leaderelection.LeaderElector
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:          cfg.ResourceName,
		Lock:          lock,
		LeaseDuration: cfg.LeaseDuration.Duration, RenewDeadline: cfg.RenewDeadline.Duration, RetryPeriod: cfg.RetryPeriod.Duration,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				close(leading)
				defer end()
				held, stop := context.WithCancel(held)
				defer stop()
				defer context.AfterFunc(ctx, stop)()
				worked <- work(held, &Gate{held: held, check: func() error { return check(elector) }})
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("build leader elector: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-leading: // work ends first, and then the campaign
		default:
			end()
		}
	})
	defer stop()
	elector.Run(campaign)
	select {
	case <-leading:
	default:
		return nil
	}
	err = <-worked
	if ctx.Err() == nil {
		return cmp.Or(err, ErrLost)
	}
	return errors.Join(err, release(context.WithoutCancel(ctx), lock, cfg.RenewDeadline.Duration))
}

// check tells whether the lease is ours by the clock too.
func check(elector *leaderelection.LeaderElector) error {
	if !elector.IsLeader() {
		return fmt.Errorf("%q holds it", elector.GetLeader())
	}
	return elector.Check(0)
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
