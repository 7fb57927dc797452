package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	utilnet "k8s.io/utils/net"

	"keelson.dev/apiserver/storage"
)

// Run starts the server and returns when ctx is done and everything has drained, or when it cannot go on.
func Run(ctx context.Context, o *Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	etcd := startEtcd(ctx, o)
	defer etcd.close()
	cfg, err := newConfig(ctx, o)
	if err != nil {
		return err
	}
	if cfg.backend, err = etcd.ready(stop, o); err != nil { //nolint:contextcheck // the backend ends with Close
		return err
	}
	defer cfg.backend.Close()
	aggregator, err := cfg.newChain(ctx)
	if err != nil {
		return err
	}
	if o.Ready != nil {
		go announce(ctx, cfg, o.Ready)
	}
	// Not the aggregator's own PrepareRun: that one builds OpenAPI.
	if err := aggregator.GenericAPIServer.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return failure(ctx)
}

// announce tells once that the server is ready. Readiness is a sum of checks that nothing announces, so it has to be asked for.
func announce(ctx context.Context, cfg *config, ready func(*rest.Config)) {
	const often = 20 * time.Millisecond // short beside the second that a start takes
	err := wait.PollUntilContextCancel(ctx, often, false, func(ctx context.Context) (bool, error) {
		code := 0
		cfg.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&code)
		return code == http.StatusOK, nil
	})
	if err == nil {
		ready(rest.CopyConfig(cfg.generic.LoopbackClientConfig))
	}
}

// failure is why ctx was ended from inside, nil if it came from outside.
func failure(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// etcdMember is the embedded etcd while it starts and runs; nil where etcd runs elsewhere.
type etcdMember struct {
	started chan struct{}
	member  *storage.Member
	err     error
}

// startEtcd starts the embedded member in the background: building the server's configuration takes as long.
func startEtcd(ctx context.Context, o *Options) *etcdMember {
	if len(o.Etcd.StorageConfig.Transport.ServerList) > 0 {
		return nil
	}
	e := &etcdMember{started: make(chan struct{})}
	o.Etcd.StorageConfig.Transport.ServerList = []string{storage.Endpoint(o.Embedded)}
	go func() {
		defer close(e.started)
		e.member, e.err = storage.StartMember(ctx, o.Embedded)
	}()
	return e
}

// ready waits for the member, and from then on stops the server when the member fails.
func (e *etcdMember) ready(stop context.CancelCauseFunc, o *Options) (*storage.Backend, error) {
	if e == nil {
		return nil, nil
	}
	<-e.started
	if e.err != nil {
		return nil, e.err
	}
	go func() {
		if err, ok := <-e.member.Err(); ok {
			stop(fmt.Errorf("run embedded etcd: %w", err))
		}
	}()
	return storage.NewBackend(e.member, o.Etcd.StorageConfig), nil
}

// close ends the member once the server has drained.
func (e *etcdMember) close() {
	if e == nil {
		return
	}
	<-e.started
	if e.member != nil {
		e.member.Close()
	}
}

var errMissing = errors.New("no network given")

func orMissing(err error) error {
	if err == nil {
		return errMissing
	}
	return err
}

func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// firstServiceIP is the address of the service kubernetes.
func firstServiceIP(cidr *net.IPNet) (net.IP, error) {
	ip, err := utilnet.GetIndexedIP(cidr, 1)
	if err != nil {
		return nil, fmt.Errorf("service network %s: %w", cidr, err)
	}
	return ip, nil
}
