package hollow

import (
	"context"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/transport"
)

// A thousand client certificates would need as many connections: TLS has one identity each. So the process has one certificate and
// acts as the node that a request's context names, by impersonation. The right to that is a role with the names of these nodes in it,
// so the key is worth what the nodes' own keys would be worth together, and no more.

type nodeKey struct{}

// as makes the requests of a context those of a node.
func as(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, nodeKey{}, node)
}

// maxInFlight bounds the requests that wait for an answer: a fleet that starts has thousands to send at once, and the API server's
// fairness would turn most of them away.
const maxInFlight = 64

func identities(impersonate bool) transport.WrapperFunc {
	return func(next http.RoundTripper) http.RoundTripper {
		return &roundTripper{next: next, impersonate: impersonate, slots: make(chan struct{}, maxInFlight)}
	}
}

type roundTripper struct {
	next        http.RoundTripper
	impersonate bool
	slots       chan struct{}
}

// RoundTrip holds a slot until the answer begins: a watch holds none.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if node, ok := ctx.Value(nodeKey{}).(string); ok && t.impersonate {
		req = req.Clone(ctx)
		req.Header.Set(transport.ImpersonateUserHeader, "system:node:"+node)
		req.Header.Set(transport.ImpersonateGroupHeader, "system:nodes")
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return t.next.RoundTrip(req)
}

// eventSink writes events as the node that tells them.
type eventSink struct {
	ctx    context.Context //nolint:containedctx // the interface of sinks has none
	client kubernetes.Interface
}

func (s *eventSink) of(e *corev1.Event) context.Context { return as(s.ctx, e.Source.Host) }

func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(e.Namespace).Create(s.of(e), e, metav1.CreateOptions{})
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(e.Namespace).Update(s.of(e), e, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(old *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.client.CoreV1().Events(old.Namespace).Patch(s.of(old), old.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
