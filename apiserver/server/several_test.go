package server_test

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"keelson.dev/apiserver/server"
)

// TestServersShareAnEtcd runs two servers on one external etcd.
func TestServersShareAnEtcd(t *testing.T) {
	store := newEtcd(t)
	launch := func(id string, last byte) *testServer {
		return newServer(t, t.TempDir(), func(o *server.Options) {
			store.use(o)
			o.ServerID, o.Run.AdvertiseAddress = id, net.IPv4(192, 0, 2, last)
		})
	}
	one, two := launch("apiserver-one", 1), launch("apiserver-two", 2)
	ctx := t.Context()
	endpoints := func() []string {
		slice := must(one.client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
		var addresses []string
		for _, e := range slice.Endpoints {
			addresses = append(addresses, e.Addresses...)
		}
		slices.Sort(addresses)
		return addresses
	}
	identities := func() []string {
		list := must(one.client.CoordinationV1().Leases("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"}))(t)
		var names []string
		for _, l := range list.Items {
			names = append(names, l.Name)
		}
		return names
	}
	eventually(t, "both servers behind the service kubernetes", func() bool { return slices.Equal(endpoints(), []string{"192.0.2.1", "192.0.2.2"}) })
	eventually(t, "both identities", func() bool { return slices.Equal(identities(), []string{"apiserver-one", "apiserver-two"}) })

	// What one writes the other tells to its watchers.
	w := must(two.client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=seen"}))(t)
	must(one.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seen"}}, metav1.CreateOptions{}))(t)
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("the other server's watch says %v", e.Type)
	}
	w.Stop() // else the server that ends waits for it
	checkAllocation(t, one, two)

	if err := two.stop(); err != nil {
		t.Fatal(err)
	}
	if got := endpoints(); !slices.Equal(got, []string{"192.0.2.1"}) {
		t.Errorf("after the second has ended: %v", got)
	}
	if got := identities(); !slices.Equal(got, []string{"apiserver-one"}) {
		t.Errorf("identities after the second has ended: %v", got)
	}
}

// checkAllocation creates services on all servers at once: no address and no port may be given out twice.
func checkAllocation(t *testing.T, servers ...*testServer) {
	t.Helper()
	const each = 25
	var mu sync.Mutex
	var wg sync.WaitGroup
	addresses, ports := map[string]bool{}, map[int32]bool{}
	for number, s := range servers {
		for i := range each {
			wg.Go(func() {
				service, err := s.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d-%d", number, i)},
					Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				addresses[service.Spec.ClusterIP], ports[service.Spec.Ports[0].NodePort] = true, true
			})
		}
	}
	wg.Wait()
	if want := each * len(servers); len(addresses) != want || len(ports) != want {
		t.Errorf("%d services have %d addresses and %d ports", want, len(addresses), len(ports))
	}
}

func TestReadyzTellsWhatIsChecked(t *testing.T) {
	code, body := shared.raw(t, http.MethodGet, "/readyz?verbose", "", "", "")
	if code != http.StatusOK {
		t.Error(code)
	}
	for _, name := range []string{
		"ping", "log", "etcd", "etcd-readiness", "informer-sync", "poststarthook/start-apiserver-admission-initializer",
		"poststarthook/generic-apiserver-start-informers", "poststarthook/priority-and-fairness-config-consumer",
		"poststarthook/priority-and-fairness-filter", "poststarthook/storage-object-count-tracker-hook",
		"poststarthook/start-apiextensions-informers", "poststarthook/start-apiextensions-controllers", "poststarthook/crd-informer-synced",
		"poststarthook/start-system-namespaces-controller", "poststarthook/start-cluster-authentication-info-controller",
		"poststarthook/start-kube-apiserver-identity-lease-controller", "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
		"poststarthook/start-legacy-token-tracking-controller", "poststarthook/start-service-ip-repair-controllers",
		"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes",
		"poststarthook/priority-and-fairness-config-producer", "poststarthook/bootstrap-controller", "poststarthook/storage-readiness",
		"poststarthook/start-kube-aggregator-informers",
		"poststarthook/apiservice-status-local-available-controller", "poststarthook/apiservice-status-remote-available-controller",
		"poststarthook/apiservice-registration-controller", "poststarthook/apiservice-discovery-controller",
		"poststarthook/kube-apiserver-autoregistration", "autoregister-completion", "shutdown",
	} {
		if !contains(body, "[+]"+name+" ok\n") {
			t.Errorf("%s is not checked", name)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
	_, metrics := shared.raw(t, http.MethodGet, "/metrics", "", "", "")
	for _, name := range []string{
		"rest_client_requests_total", "kubernetes_build_info", "kubernetes_feature_enabled", "version_info", "workqueue_depth",
		"apiserver_request_total", "apiserver_flowcontrol_dispatched_requests_total", "apiserver_audit_event_total", "etcd_request_duration_seconds",
	} {
		if !contains(metrics, "# TYPE "+name+" ") {
			t.Errorf("no metric %s", name)
		}
	}
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/readyz?exclude=etcd&verbose":   {200, "[+]etcd excluded: ok"},
		"/readyz?exclude=no-such-check":  {200, "ok"},
		"/livez/ping":                    {200, "ok"},
		"/livez/etcd":                    {200, "ok"},
		"/livez/shutdown":                {404, ""},
		"/healthz/poststarthook/nothing": {404, ""},
	} {
		if code, body := shared.raw(t, http.MethodGet, path, "", "", ""); code != want.code || !contains(body, want.body) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/healthz/poststarthook/apiservice-openapi-controller", "/readyz/poststarthook/apiservice-openapiv3-controller"} {
		if code, body := shared.raw(t, http.MethodGet, path, "", "", ""); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}
