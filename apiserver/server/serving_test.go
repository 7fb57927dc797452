package server_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/apiclient"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// slowly begins to create a config map and ends its body when finish is called; done tells the status code.
func (s *testServer) slowly(t *testing.T, name, asUser string) (finish func(), done <-chan int) {
	t.Helper()
	reader, writer := io.Pipe()
	config := rest.CopyConfig(s.loopback)
	if asUser != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: asUser, Groups: []string{"system:authenticated"}}
	}
	client := must(apiclient.HTTPClient(config))(t)
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, s.loopback.Host+"/api/v1/namespaces/default/configmaps", reader))(t)
	request.Header.Set("Content-Type", "application/json")
	code := make(chan int, 1)
	go func() {
		response, err := client.Do(request)
		if err != nil {
			code <- 0
			return
		}
		_ = response.Body.Close()
		code <- response.StatusCode
	}()
	if _, err := io.WriteString(writer, `{"apiVersion":"v1","kind":"ConfigMap",`); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, _ = io.WriteString(writer, `"metadata":{"name":"`+name+`"}}`) // an answered request does not read on
		_ = writer.Close()
	}, code
}

func TestShutdownIsGraceful(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		o.Run.ShutdownDelayDuration, o.Run.ShutdownWatchTerminationGracePeriod = 5*time.Second, 5*time.Second
	})
	w := must(s.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	finish, done := s.slowly(t, "late", "")
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "not ready any more", func() bool {
		code, body := s.raw(t, http.MethodGet, "/readyz?verbose", "", "", "")
		return code == http.StatusInternalServerError && contains(body, "[-]shutdown failed")
	})
	if code, body := s.raw(t, http.MethodGet, "/livez", "", "", ""); code != http.StatusOK {
		t.Errorf("alive while it shuts down: %d %s", code, body)
	}
	must(s.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}))(t) // load balancers may be slow to notice
	finish()
	if code := <-done; code != http.StatusCreated {
		t.Errorf("the request in flight: %d", code)
	}
	for range w.ResultChan() {
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(s.loopback.Host, "https://")); err == nil {
		_ = c.Close()
		t.Error("the address is still listened on")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		o.Features.EnablePriorityAndFairness, o.Features.EnableProfiling = false, true
		o.Run.MaxMutatingRequestsInFlight, o.Run.MaxRequestsInFlight = 1, 20
		o.Run.RequestTimeout = 5 * time.Second
		o.Run.CorsAllowedOriginList = []string{`^https://good\.example$`}
	})
	admin := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "admin"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "admin"}},
	}
	must(s.client.RbacV1().ClusterRoleBindings().Create(t.Context(), admin, metav1.CreateOptions{}))(t)
	user := s.impersonate(t, "admin", "system:authenticated").CoreV1()
	eventually(t, "the user's rights", func() bool {
		_, err := user.ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	finish, done := s.slowly(t, "never", "admin")
	defer func() { finish() }()
	refusals := 0 // in a row: one request that was answered and not yet forgotten may refuse two others
	eventually(t, "429 beside a request in flight", func() bool {
		select {
		case code := <-done: // refused for the sake of the one below
			if code != http.StatusTooManyRequests {
				t.Fatalf("the request in flight: %d", code)
			}
			finish()
			finish, done = s.slowly(t, "never", "admin")
		default:
		}
		err := user.RESTClient().Post().Namespace("default").Resource("configmaps").
			Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}}).MaxRetries(0).Do(t.Context()).Error()
		if !apierrors.IsTooManyRequests(err) {
			refusals = 0
			return false
		}
		refusals++
		return refusals == 5
	})
	if _, err := user.ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("reads have a limit of their own: %v", err)
	}
	if code := <-done; code != http.StatusGatewayTimeout {
		t.Errorf("a request that takes longer than the limit: %d", code)
	}

	for origin, want := range map[string]string{"https://good.example": "https://good.example", "https://bad.example": ""} {
		request := must(http.NewRequestWithContext(t.Context(), http.MethodGet, s.loopback.Host+"/version", nil))(t)
		request.Header.Set("Origin", origin)
		response := must(must(apiclient.HTTPClient(s.loopback))(t).Do(request))(t) //nolint:bodyclose // it is, below
		_ = response.Body.Close()
		if got := response.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("origin %s is answered %q", origin, got)
		}
	}
	profile := func(groups ...string) error {
		return s.impersonate(t, "somebody", groups...).Discovery().RESTClient().Get().AbsPath("/debug/pprof/goroutine").Do(t.Context()).Error()
	}
	if err := profile("system:authenticated"); !apierrors.IsForbidden(err) {
		t.Errorf("a profile for anybody: %v", err)
	}
	if err := profile("system:masters"); err != nil {
		t.Errorf("a profile for the privileged: %v", err)
	}
	if code, _ := shared.raw(t, http.MethodGet, "/debug/pprof/goroutine", "", "", ""); code != http.StatusNotFound {
		t.Errorf("profiling where it is off: %d", code)
	}
}

// TestPrivilegedContainersMayBeForbidden also sends what goes to the cluster's network through a proxy.
func TestPrivilegedContainersMayBeForbidden(t *testing.T) {
	var through atomic.Int32
	proxy := connectProxy(t, &through)
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		o.AllowPrivileged = false
		o.Egress.ConfigFile = file(t, "egress.yaml", `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: {proxyProtocol: HTTPConnect, transport: {uds: {udsName: '`+proxy+`'}}}
- {name: controlplane, connection: {proxyProtocol: Direct}}
- {name: etcd, connection: {proxyProtocol: Direct}}
`)
	})
	ctx, core := t.Context(), s.client.CoreV1()
	s.serviceAccount(t, "default")
	yes := true
	p := pod("privileged")
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	_, err := core.Pods("default").Create(ctx, p, metav1.CreateOptions{})
	const want = "spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy"
	if !apierrors.IsInvalid(err) || !contains(err.Error(), want) {
		t.Errorf("a privileged pod: %v", err)
	}
	must(core.Pods("default").Create(ctx, pod("plain"), metav1.CreateOptions{}))(t)
	template := &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Template: corev1.PodTemplateSpec{Spec: p.Spec}}
	if _, err := core.PodTemplates("default").Create(ctx, template, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !contains(err.Error(), "template.spec.containers[0]") {
		t.Errorf("a privileged template: %v", err)
	}
	debug := must(core.Pods("default").Get(ctx, "plain", metav1.GetOptions{}))(t)
	debug.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &yes}, TerminationMessagePolicy: "File", ImagePullPolicy: "Always",
	}}}
	if _, err := core.Pods("default").UpdateEphemeralContainers(ctx, "plain", debug, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !contains(err.Error(), "ephemeralContainers[0]") {
		t.Errorf("a privileged debug container: %v", err)
	}

	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "from the kubelet") }))
	t.Cleanup(kubelet.Close)
	nodeAt(t, s, "near", kubelet.Listener.Addr())
	get := func(node string) ([]byte, error) {
		return core.RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("x").DoRaw(ctx)
	}
	if text := must(get("near"))(t); string(text) != "from the kubelet" || through.Load() == 0 {
		t.Errorf("%q came through %d connections of the proxy", text, through.Load())
	}
}

// connectProxy is an HTTP CONNECT proxy behind a unix socket.
func connectProxy(t *testing.T, through *atomic.Int32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy.sock")
	listener := must(net.Listen("unix", path))(t)
	proxy := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", r.Host)
		if r.Method != http.MethodConnect || err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		through.Add(1)
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, buffered); _ = to.Close() }()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	})}
	go func() {
		if err := proxy.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { _ = proxy.Close() })
	return path
}
