//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	custommetricsv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalmetricsv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
)

// TestAutoscaleByMetrics scales by metrics of pods, of an object and of something outside, which an adapter serves that runs beside the
// cluster: the aggregator reaches it through a Service. All three ask for 10 a pod; the largest answer counts.
func TestAutoscaleByMetrics(t *testing.T) {
	namespace := fmt.Sprintf("e2e-metrics-%d", time.Now().UnixNano()%100000)
	a := &adapter{namespace: namespace}
	server := httptest.NewUnstartedServer(a)
	listener, err := net.Listen("tcp", "0.0.0.0:0") //nolint:noctx // it does not wait
	must(t, err)
	server.Listener = listener
	server.StartTLS()
	t.Cleanup(server.Close)
	out, err := kubectlCommand("get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`).Output()
	must(t, err)
	node, err := netip.ParseAddr(string(out))
	must(t, err)
	address := node.As4()
	address[3] = 1 // the machine's own on the lab's network
	text, err := os.ReadFile("testdata/metrics.yaml")
	must(t, err)
	replace := strings.NewReplacer("NAMESPACE", namespace, "ADDRESS", netip.AddrFrom4(address).String(), "PORT", fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
	file := filepath.Join(t.TempDir(), "metrics.yaml")
	must(t, os.WriteFile(file, []byte(replace.Replace(string(text))), 0o600))
	t.Cleanup(func() { _ = kubectl("delete", "-f", file, "--wait=false") })
	must(t, kubectl("apply", "-f", file))
	for _, step := range []struct{ pods, object, external, want int64 }{{10, 10, 20, 2}, {30, 10, 20, 3}, {30, 40, 20, 4}, {10, 10, 10, 1}} {
		a.pods.Store(step.pods)
		a.object.Store(step.object)
		a.external.Store(step.external)
		waitFor(t, 2*time.Minute, func() error {
			out, err := kubectlCommand("get", "-n", namespace, "deployment", "web", "-o", "jsonpath={.status.readyReplicas}").Output()
			if err != nil || string(out) != fmt.Sprint(step.want) {
				why, _ := kubectlCommand("describe", "-n", namespace, "hpa", "web").CombinedOutput()
				return fmt.Errorf("with %+v there are %s replicas (%w):\n%s", step, out, err, why)
			}
			return nil
		})
	}
}

// adapter serves custom and external metrics. The sums are set by the test; that of the pods is spread over all there are.
type adapter struct {
	namespace              string
	pods, object, external atomic.Int64
}

func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	in := "/namespaces/" + a.namespace
	now := metav1.Now()
	var answer any
	switch r.URL.Path {
	case "/apis/custom.metrics.k8s.io/v1beta2" + in + "/pods/*/requests":
		list := custommetricsv1beta2.MetricValueList{TypeMeta: metav1.TypeMeta{Kind: "MetricValueList", APIVersion: "custom.metrics.k8s.io/v1beta2"}}
		out, _ := kubectlCommand("get", "pods", "-n", a.namespace, "-l", r.URL.Query().Get("labelSelector"), "-o", "jsonpath={.items[*].metadata.name}").Output()
		names := strings.Fields(string(out))
		for _, name := range names {
			list.Items = append(list.Items, custommetricsv1beta2.MetricValue{
				DescribedObject: corev1.ObjectReference{Kind: "Pod", Namespace: a.namespace, Name: name, APIVersion: "v1"},
				Metric:          custommetricsv1beta2.MetricIdentifier{Name: "requests"}, Timestamp: now,
				Value: *resource.NewMilliQuantity(a.pods.Load()*1000/int64(len(names)), resource.DecimalSI),
			})
		}
		answer = list
	case "/apis/custom.metrics.k8s.io/v1beta2" + in + "/services/web/hits":
		answer = custommetricsv1beta2.MetricValueList{
			TypeMeta: metav1.TypeMeta{Kind: "MetricValueList", APIVersion: "custom.metrics.k8s.io/v1beta2"},
			Items: []custommetricsv1beta2.MetricValue{{
				DescribedObject: corev1.ObjectReference{Kind: "Service", Namespace: a.namespace, Name: "web", APIVersion: "v1"},
				Metric:          custommetricsv1beta2.MetricIdentifier{Name: "hits"}, Timestamp: now, Value: *resource.NewQuantity(a.object.Load(), resource.DecimalSI),
			}},
		}
	case "/apis/external.metrics.k8s.io/v1beta1" + in + "/queue":
		answer = externalmetricsv1beta1.ExternalMetricValueList{
			TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
			Items:    []externalmetricsv1beta1.ExternalMetricValue{{MetricName: "queue", Timestamp: now, Value: *resource.NewQuantity(a.external.Load(), resource.DecimalSI)}},
		}
	default: // discovery
		_, group, _ := strings.Cut(r.URL.Path, "/apis/")
		answer = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group, APIResources: []metav1.APIResource{}}
	}
	_ = json.NewEncoder(w).Encode(answer) // a client that is gone needs none
}
