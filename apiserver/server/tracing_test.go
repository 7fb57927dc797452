package server_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apiserver/server"
)

// traceReceiver is an OTLP collector that keeps the names of spans by the service that sent them.
type traceReceiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string][]string
}

func (r *traceReceiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range request.ResourceSpans {
		service := ""
		for _, attribute := range from.Resource.Attributes {
			if attribute.Key == "service.name" {
				service = attribute.Value.GetStringValue()
			}
		}
		for _, scope := range from.ScopeSpans {
			for _, span := range scope.Spans {
				r.spans[service] = append(r.spans[service], span.Name)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *traceReceiver) has(service, span string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.spans[service], span)
}

func TestTracing(t *testing.T) {
	receiver := &traceReceiver{spans: map[string][]string{}}
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	service := grpc.NewServer()
	collector.RegisterTraceServiceServer(service, receiver)
	go func() {
		if err := service.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(service.Stop)
	store := newEtcd(t)
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		store.use(o)
		o.Tracing.ConfigFile = file(t, "tracing.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"+
			"endpoint: "+listener.Addr().String()+"\nsamplingRatePerMillion: 1000000\n")
	})
	must(s.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}))(t)
	for _, span := range []string{"GET /api/v1/namespaces/{:namespace}/configmaps", "authentication", "cacher.GetList", "etcdserverpb.KV/Range"} {
		eventually(t, "a span "+span, func() bool { return receiver.has("apiserver", span) })
	}
}
