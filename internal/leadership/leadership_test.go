package leadership

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-base/config"
)

// lab is a candidate named "we" whose API server can be away.
type lab struct {
	client *fake.Clientset
	away   atomic.Bool
	gate   Gate
	out    http.RoundTripper // through the gate
	server *httptest.Server

	works atomic.Int32 // how often work has begun
	ended chan error
	end   context.CancelFunc
}

func begin(t *testing.T) *lab {
	t.Helper()
	l := &lab{client: fake.NewClientset(), ended: make(chan error, 1)}
	l.client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if l.away.Load() {
			return true, nil, errors.New("the server is away")
		}
		return false, nil, nil
	})
	l.server = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(l.server.Close)
	l.out = l.gate.Wrap(http.DefaultTransport)
	if err := l.write(t.Context()); !errors.Is(err, ErrLost) {
		t.Fatalf("a write before the lease is held: %v, want %v", err, ErrLost)
	}
	ctx, end := context.WithCancel(t.Context())
	l.end = end
	cfg := config.LeaderElectionConfiguration{
		LeaseDuration: metav1.Duration{Duration: 2 * time.Second}, RenewDeadline: metav1.Duration{Duration: time.Second},
		RetryPeriod: metav1.Duration{Duration: 100 * time.Millisecond}, ResourceName: "lease", ResourceNamespace: "kube-system",
	}
	go func() {
		l.ended <- Run(ctx, l.client, cfg, "we", &l.gate, func(ctx context.Context) error {
			l.works.Add(1)
			<-ctx.Done()
			return nil
		})
	}()
	eventually(t, "a write passes", func() bool { return l.write(t.Context()) == nil && l.works.Load() == 1 })
	return l
}

func (l *lab) write(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.server.URL, http.NoBody)
	if err != nil {
		return err
	}
	response, err := l.out.RoundTrip(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (l *lab) lease(t *testing.T) *coordinationv1.Lease {
	t.Helper()
	lease, err := l.client.CoordinationV1().Leases("kube-system").Get(t.Context(), "lease", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func TestLapse(t *testing.T) {
	l := begin(t)
	for range 2 {
		l.away.Store(true)
		eventually(t, "writes are held back", func() bool { return errors.Is(l.write(t.Context()), ErrLost) })
		l.away.Store(false)
		eventually(t, "writes pass again", func() bool { return l.write(t.Context()) == nil })
	}
	if n := l.works.Load(); n != 1 {
		t.Errorf("work began %d times, want once", n)
	}
	l.end()
	if err := <-l.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if holder := l.lease(t).Spec.HolderIdentity; holder != nil && *holder != "" {
		t.Errorf("%q holds the lease after the end", *holder)
	}
	if err := l.write(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("a write after the end: %v, want %v", err, ErrLost)
	}
}

// TestTakenMeanwhile has another process hold the lease while the API server is away for this one, and give it back at once or not.
func TestTakenMeanwhile(t *testing.T) {
	for name, holder := range map[string]string{"Held": "they", "Released": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t)
			defer l.end()
			lease := l.lease(t)
			l.away.Store(true)
			eventually(t, "writes are held back", func() bool { return errors.Is(l.write(t.Context()), ErrLost) })
			transitions := *lease.Spec.LeaseTransitions + 1
			lease.Spec.HolderIdentity, lease.Spec.LeaseTransitions, lease.Spec.RenewTime = &holder, &transitions, new(metav1.NowMicro())
			if err := l.client.Tracker().Update(coordinationv1.SchemeGroupVersion.WithResource("leases"), lease, "kube-system"); err != nil {
				t.Fatal(err)
			}
			l.away.Store(false)
			select {
			case err := <-l.ended:
				if !errors.Is(err, ErrLost) {
					t.Errorf("Run: %v, want %v", err, ErrLost)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("work goes on")
			}
			if err := l.write(t.Context()); !errors.Is(err, ErrLost) {
				t.Errorf("a write after the lease was lost: %v, want %v", err, ErrLost)
			}
		})
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return is(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
