package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// runtimeStub answers with the addresses of a real CRI streaming server, behind which echo plays the containers.
type runtimeStub struct {
	runtimeapi.RuntimeServiceClient
	streams streaming.Server
}

func (r *runtimeStub) Exec(_ context.Context, in *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	return r.streams.GetExec(in)
}

func (r *runtimeStub) PortForward(_ context.Context, in *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return r.streams.GetPortForward(in)
}

type echo struct{}

func (echo) Exec(_ context.Context, _ string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	_, err := fmt.Fprintf(out, "%v:", cmd)
	if err == nil {
		_, err = io.Copy(out, in) // ends only if the end of standard input arrives
	}
	return err
}

func (echo) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan criremote.TerminalSize) error {
	return errors.New("not attached")
}

func (echo) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	_, err := fmt.Fprintf(stream, "%s:%d", id, port)
	return errors.Join(err, stream.Close())
}

type podsStub struct{ log string }

func (podsStub) Pods() []*corev1.Pod { return nil }
func (p podsStub) ContainerID(_ context.Context, _, _, container string, _ bool) (string, string, error) {
	if container == "waiting" {
		return "", "", errors.New(`container "waiting" in pod "p" is waiting to start: ContainerCreating`)
	}
	return "id-" + container, p.log, nil
}
func (podsStub) SandboxID(context.Context, string, string) (string, error) { return "sandbox", nil }

// reviewer knows two tokens: admin may everything, reader may read metrics.
func reviewer() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status.Authenticated = review.Spec.Token == "admin" || review.Spec.Token == "reader"
		review.Status.User.Username = review.Spec.Token
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		review.Status.Allowed = review.Spec.User == "admin" && review.Spec.ResourceAttributes.Subresource == "proxy" ||
			review.Spec.User == "reader" && review.Spec.ResourceAttributes.Subresource == "metrics"
		return true, review, nil
	})
	return client
}

func startServer(t *testing.T) (*httptest.Server, *rest.Config) {
	t.Helper()
	backend := httptest.NewUnstartedServer(nil)
	base := &url.URL{Scheme: "http", Host: backend.Listener.Addr().String()}
	config := streaming.DefaultConfig
	config.BaseURL = base
	streams, err := streaming.NewServer(config, echo{})
	if err != nil {
		t.Fatal(err)
	}
	backend.Config.Handler = streams
	backend.Start()
	t.Cleanup(backend.Close)

	log := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(log, []byte("2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("unused") },
		Client:      reviewer(), NodeName: "n", Pods: podsStub{log}, Runtime: &runtimeStub{streams: streams},
		Summary: func(context.Context) (*statsapi.Summary, error) {
			shared := []statsapi.VolumeStats{
				{Name: "v", PVCRef: &statsapi.PVCReference{Namespace: "ns", Name: "data"}, FsStats: statsapi.FsStats{UsedBytes: new(uint64(7))}}, {Name: "scratch"},
			}
			return &statsapi.Summary{Pods: []statsapi.PodStats{
				{PodRef: statsapi.PodReference{Name: "p", Namespace: "ns"}, CPU: &statsapi.CPUStats{UsageCoreNanoSeconds: new(uint64(1500))}, VolumeStats: shared},
				{PodRef: statsapi.PodReference{Name: "q", Namespace: "ns"}, VolumeStats: shared},
			}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	return server, &rest.Config{Host: server.URL, BearerToken: "admin", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func TestAccess(t *testing.T) {
	server, _ := startServer(t)
	for name, tc := range map[string]struct {
		token, method, path string
		code                int
		body                string
	}{
		"nobody":            {"", "GET", "/pods", 401, "Unauthorized"},
		"wrong token":       {"x", "GET", "/pods", 401, "Unauthorized"},
		"reader, pods":      {"reader", "GET", "/pods", 403, "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[pods proxy])"},
		"reader, exec":      {"reader", "POST", "/exec/ns/p/c", 403, "Forbidden (user=reader, verb=create, resource=nodes, subresource(s)=[proxy])"},
		"reader, metrics":   {"reader", "GET", "/metrics/resource", 200, `pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5e-06`},
		"node's name":       {"reader", "GET", "/metrics", 200, `kubelet_node_name{node="n"} 1`},
		"volumes":           {"reader", "GET", "/metrics", 200, `kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="data"} 7`},
		"admin, pods":       {"admin", "GET", "/pods", 200, `"kind":"PodList"`},
		"admin, healthz":    {"admin", "GET", "/healthz", 200, "ok"},
		"logs":              {"admin", "GET", "/containerLogs/ns/p/c", 200, "one\ntwo\n"},
		"logs tail":         {"admin", "GET", "/containerLogs/ns/p/c?tailLines=1&timestamps=true", 200, "2026-01-01T00:00:02.000000000Z two\n"},
		"logs stream":       {"admin", "GET", "/containerLogs/ns/p/c?stream=Stdout", 200, "one\n"},
		"logs bad tail":     {"admin", "GET", "/containerLogs/ns/p/c?tailLines=-1", 422, "tailLines"},
		"logs waiting":      {"admin", "GET", "/containerLogs/ns/p/waiting", 400, "waiting to start: ContainerCreating"},
		"exec, no streams":  {"admin", "POST", "/exec/ns/p/c", 400, "at least 1 of stdin"},
		"exec, no upgrade":  {"admin", "POST", "/exec/ns/p/c?output=1&command=x", 400, "upgrade"},
		"nothing there":     {"admin", "GET", "/nothing", 404, ""},
		"summary":           {"admin", "GET", "/stats/summary", 403, "stats"},
		"escape from /logs": {"admin", "GET", "/logs/../../etc/passwd", 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := http.NewRequestWithContext(t.Context(), tc.method, server.URL+tc.path, nil)
			if tc.token != "" {
				r.Header.Set("Authorization", "Bearer "+tc.token)
			}
			answer, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, _ := io.ReadAll(answer.Body)
			if answer.StatusCode != tc.code || !strings.Contains(string(body), tc.body) {
				t.Errorf("got %d %s, want %d …%s…", answer.StatusCode, body, tc.code, tc.body)
			}
		})
	}
}

func TestExecFromEveryClient(t *testing.T) {
	_, config := startServer(t)
	target, _ := url.Parse(config.Host + "/exec/ns/p/c?input=1&output=1&command=cat&command=-")
	spdy := func() (remotecommand.Executor, error) { return remotecommand.NewSPDYExecutor(config, "POST", target) }
	web := func() (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(config, "GET", target.String())
	}
	for name, connect := range map[string]func() (remotecommand.Executor, error){"SPDY": spdy, "WebSocket v5": web} {
		t.Run(name, func(t *testing.T) {
			executor, err := connect()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
			if diff := cmp.Diff("[cat -]:hello", out.String()); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

func TestPortForwardThroughWebSocket(t *testing.T) {
	_, config := startServer(t)
	target, _ := url.Parse(config.Host + "/portForward/ns/p")
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if diff := cmp.Diff("sandbox:8080", string(answer)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	close(stop)
	<-done
}
