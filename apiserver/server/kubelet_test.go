package server_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// fakeKubelet answers with what it was asked for, and runs every command by repeating it.
func fakeKubelet(t *testing.T, node string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s tail=%s\n", r.URL.Path, r.URL.Query().Get("tailLines"))
	})
	mux.HandleFunc("/metrics/x", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "metrics of ", r.Method) })
	mux.HandleFunc("/exec/", func(w http.ResponseWriter, r *http.Request) { serveExec(t, w, r) })
	server := httptest.NewUnstartedServer(mux)
	server.StartTLS()
	t.Cleanup(server.Close)
	nodeAt(t, shared, node, server.Listener.Addr())
}

// nodeAt makes a node whose kubelet is at the address.
func nodeAt(t *testing.T, s *testServer, name string, address net.Addr) {
	t.Helper()
	must(s.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(address.(*net.TCPAddr).Port)}},
		},
	}, metav1.CreateOptions{}))(t)
}

// serveExec speaks the kubelet's side of remote command execution over SPDY: protocol v4, streams error and stdout.
func serveExec(t *testing.T, w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 4)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() {
			<-replied
			streams <- s
		}()
		return nil
	})
	if connection == nil {
		return
	}
	defer connection.Close()
	for range 2 {
		s := <-streams
		switch s.Headers().Get(corev1.StreamType) {
		case corev1.StreamTypeStdout:
			fmt.Fprint(s, r.URL.Query()["command"])
		case corev1.StreamTypeError:
			defer fmt.Fprint(s, `{"metadata":{},"status":"Success"}`)
		}
		defer s.Close()
	}
}

func TestStreamsReachTheKubelet(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	fakeKubelet(t, "fake")
	p := pod("p")
	p.Spec.NodeName = "fake"
	must(shared.client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}))(t)

	tail := int64(3)
	text := must(shared.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{TailLines: &tail}).DoRaw(ctx))(t)
	if want := "/containerLogs/" + ns + "/p/c tail=3\n"; string(text) != want {
		t.Errorf("log is %q, want %q", text, want)
	}
	_, err := shared.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Container: "none"}).DoRaw(ctx)
	if !apierrors.IsBadRequest(err) {
		t.Errorf("log of no container: %v", err)
	}
	text = must(shared.client.CoreV1().RESTClient().Get().Resource("nodes").Name("fake").SubResource("proxy").Suffix("metrics/x").DoRaw(ctx))(t)
	if string(text) != "metrics of GET" {
		t.Errorf("through the node proxy: %q", text)
	}

	options := &corev1.PodExecOptions{Container: "c", Command: []string{"echo", "a b"}, Stdout: true}
	request := shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("exec").VersionedParams(options, scheme.ParameterCodec)
	executors := map[string]func() (remotecommand.Executor, error){
		"SPDY": func() (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(shared.loopback, http.MethodPost, request.URL())
		},
		"WebSocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(shared.loopback, http.MethodGet, request.URL().String())
		},
	}
	for name, build := range executors {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			executor := must(build())(t)
			if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			if out.String() != "[echo a b]" {
				t.Errorf("output is %q", out.String())
			}
		})
	}
}
