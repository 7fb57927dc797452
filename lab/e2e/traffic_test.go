//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/internal/podstate"
)

var trafficFor = flag.Duration("traffic", 0, "how long TestTraffic and TestNames go on at least; 0: they do not run")

const (
	connections = 200
	perSecond   = 500
	renewed     = 25              // requests on one connection
	patience    = 5 * time.Second // of a client, with one request
	// behind is how far a node's rules may be behind the endpoints on a busy machine; usually it is moments.
	behind = 3 * time.Second
)

// trafficDemo is a copy of the demo for one test.
const trafficDemo = `
apiVersion: v1
kind: Service
metadata: {name: traffic}
spec:
  type: NodePort
  selector: {app: traffic}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: traffic}
spec:
  replicas: 6
  selector: {matchLabels: {app: traffic}}
  template:
    metadata: {labels: {app: traffic}}
    spec:
      terminationGracePeriodSeconds: 15
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: traffic}}}
      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
      - name: demo
        image: %s
        resources: {requests: {cpu: 50m}} # without a share of its own a pod gets nearly nothing of a busy machine
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}} # for rules that are behind
`

func needTraffic(t *testing.T) {
	if *trafficFor == 0 {
		t.Skip("-traffic is not set: make traffic")
	}
}

// TestTraffic has clients that keep 200 connections and send 500 requests a second to a Service while that is updated, scaled and, once,
// loses a node. No request may fail but those that were under way or sent while the dead node's endpoints were still in force: nobody can
// know sooner.
func TestTraffic(t *testing.T) {
	needTraffic(t)
	client := clientset(t)
	namespace := newNamespace(t)
	image := output(t, "get", "-n", "demo", "deployment/demo", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	apply := kubectlCommand("apply", "-n", namespace, "-f", "-")
	apply.Stdin = strings.NewReader(fmt.Sprintf(trafficDemo, image))
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	settled := func() {
		t.Helper()
		must(t, kubectl("rollout", "status", "-n", namespace, "deployment/traffic", "--timeout=3m"))
	}
	settled()
	log := chronicle(t, client, namespace)
	port := output(t, "get", "-n", namespace, "service/traffic", "-o", "jsonpath={.spec.ports[0].nodePort}")
	crowd := startCrowd("http://" + net.JoinHostPort(serverAddress(t), port) + "/")

	began, rounds := time.Now(), 0
	work := func(until time.Duration) {
		for ; rounds == 0 || time.Since(began) < until; rounds++ {
			must(t, kubectl("rollout", "restart", "-n", namespace, "deployment/traffic"))
			settled()
			for _, replicas := range []int{9, 4, 6} {
				must(t, kubectl("scale", "-n", namespace, "deployment/traffic", fmt.Sprintf("--replicas=%d", replicas)))
				settled()
			}
		}
	}
	crowd.curious.Store(true)
	work(*trafficFor / 2)
	crowd.curious.Store(false)
	killed := time.Now()
	t.Cleanup(func() { _ = powerOf("start", "worker-1") }) // of a test that ended early
	must(t, powerOf("kill", "worker-1"))
	waitFor(t, 2*time.Minute, func() error { return noEndpoints(t.Context(), client, namespace, "worker-1") })
	givenUp := time.Now()
	settled()
	must(t, powerOf("start", "worker-1"))
	must(t, kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s"))
	crowd.curious.Store(true)
	work(*trafficFor)

	failures := crowd.stop()
	causes := map[string]int{}
	var told time.Time // failures that follow each other closely have one history
	for _, f := range failures {
		cause := f.cause()
		if f.ended.After(killed) && f.sent.Before(givenUp.Add(behind)) {
			cause += ", node dead and not given up"
		} else {
			t.Errorf("%s after the start, %s after the node was killed: %v", f.sent.Sub(began).Round(time.Millisecond), f.sent.Sub(killed).Round(time.Millisecond), f.err)
			if f.ended.Sub(told) > patience {
				t.Log(log.before(f.ended))
				told = f.ended
			}
		}
		causes[cause]++
	}
	took := time.Since(began)
	t.Logf("figures: %d of %d requests failed (%.0f a second, %s, %d rounds of an update and three scalings; the node was given up after %.1f s): %v",
		len(failures), crowd.sent, float64(crowd.sent)/took.Seconds(), took.Round(time.Second), rounds, givenUp.Sub(killed).Seconds(), causes)
}

// happening is what a watch told of a pod.
type happening struct {
	at   time.Time
	what string
}

// happenings is the history of a namespace's pods and endpoints, for whoever asks why a request failed.
type happenings struct {
	mu   sync.Mutex
	list []happening
}

func (h *happenings) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, happening{time.Now(), fmt.Sprintf(format, args...)})
}

// before is what happened in the time before a failure that may have to do with it.
func (h *happenings) before(failure time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var text strings.Builder
	for _, e := range h.list {
		if ago := failure.Sub(e.at); ago > -time.Second && ago < 20*time.Second {
			fmt.Fprintf(&text, "  %.1f s before: %s\n", ago.Seconds(), e.what)
		}
	}
	return text.String()
}

// chronicle follows pods and endpoints until the test ends.
func chronicle(t *testing.T, client kubernetes.Interface, namespace string) *happenings {
	h := &happenings{}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			if was, pod := old.(*corev1.Pod), now.(*corev1.Pod); was.DeletionTimestamp == nil && pod.DeletionTimestamp != nil {
				h.note("%s with %s on %s is to end within %d s", pod.Name, pod.Status.PodIP, pod.Spec.NodeName, *pod.DeletionGracePeriodSeconds)
			} else if podstate.Ready(was) != podstate.Ready(pod) {
				h.note("%s with %s on %s is ready: %t", pod.Name, pod.Status.PodIP, pod.Spec.NodeName, podstate.Ready(pod))
			}
		},
		DeleteFunc: func(obj any) {
			if pod, ok := obj.(*corev1.Pod); ok {
				h.note("%s with %s is gone", pod.Name, pod.Status.PodIP)
			}
		},
	})
	must(t, err)
	_, err = factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, now any) {
			var ready []string
			for _, e := range now.(*discoveryv1.EndpointSlice).Endpoints {
				if *e.Conditions.Ready {
					ready = append(ready, e.Addresses[0])
				}
			}
			h.note("endpoints: %v", ready)
		},
	})
	must(t, err)
	factory.StartWithContext(t.Context())
	factory.WaitForCacheSyncWithContext(t.Context())
	return h
}

// powerOf kills or starts a node.
func powerOf(action, node string) error {
	if out, err := command("node", action, node).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", action, node, err, out)
	}
	return nil
}

// clientConfig is the administrator's, without a limit of the client's own.
func clientConfig(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig())
	must(t, err)
	config.QPS = -1
	return config
}

func clientset(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(clientConfig(t))
	must(t, err)
	return client
}

// noEndpoints is nil once no endpoint of a namespace on the node is ready.
func noEndpoints(ctx context.Context, client kubernetes.Interface, namespace, node string) error {
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if n := readyEndpoints(&list.Items[i], node); n > 0 {
			return fmt.Errorf("%s has %d ready endpoints on %s", list.Items[i].Name, n, node)
		}
	}
	return nil
}

// readyEndpoints counts the ready endpoints of a slice, those on one node or, without a name, all.
func readyEndpoints(slice *discoveryv1.EndpointSlice, node string) int {
	n := 0
	for _, e := range slice.Endpoints {
		if (node == "" || (e.NodeName != nil && *e.NodeName == node)) && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
			n++
		}
	}
	return n
}

// failure is a request that failed.
type failure struct {
	sent, ended time.Time
	err         error
}

// cause says in few words what happened.
func (f failure) cause() string {
	var timeout net.Error
	switch {
	case errors.As(f.err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(f.err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(f.err, syscall.EHOSTUNREACH):
		return "no route"
	}
	return f.err.Error()
}

// crowd is many clients, each with a connection that it keeps while it can.
type crowd struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	curious atomic.Bool // what fails is looked into at once

	mu       sync.Mutex
	sent     int
	failures []failure
}

func startCrowd(url string) *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{cancel: cancel}
	const every = time.Second * connections / perSecond
	for i := range connections {
		// A connection that is being made goes on when its request is given up: it must end itself, and hold up no other.
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: patience}).DialContext}}
		c.done.Go(func() {
			defer client.CloseIdleConnections()
			time.Sleep(every * time.Duration(i) / connections) // one after the other
			tick := time.NewTicker(every)
			defer tick.Stop()
			for n := 1; ctx.Err() == nil; n++ {
				sent := time.Now()
				err := c.traced(client, url)
				ended := time.Now()
				if n%renewed == 0 { // or pods that are new would never be asked
					client.CloseIdleConnections()
				}
				c.note(failure{sent, ended, err})
				<-tick.C
			}
		})
	}
	return c
}

// traced asks, and an error says what became of the connection, and what the nodes' kernels knew of it shortly before it was given up.
func (c *crowd) traced(client *http.Client, url string) error {
	var got atomic.Pointer[httptrace.GotConnInfo]
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { got.Store(&info) }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	tables := make(chan string, 1)
	inquiry := time.AfterFunc(patience-time.Second, func() {
		if !c.curious.Load() {
			tables <- ""
			return
		}
		ports := unanswered(request.URL.Port())
		if info := got.Load(); info != nil {
			_, port, _ := net.SplitHostPort(info.Conn.LocalAddr().String())
			ports = append(ports, port)
		}
		tables <- connectionsOf(ports)
	})
	err = answered(client.Do(request))
	if inquiry.Stop() || err == nil {
		return err
	}
	connection := "none was made"
	if info := got.Load(); info != nil {
		connection = fmt.Sprintf("%s, used before: %t", info.Conn.LocalAddr(), info.Reused)
	}
	return fmt.Errorf("%w (connection: %s)\n%s", err, connection, <-tables)
}

// unanswered are the local ports of this machine's connections to a port that have not been answered yet.
func unanswered(port string) (ports []string) {
	const synSent = "02" // as include/net/tcp_states.h has it
	number, _ := strconv.ParseUint(port, 10, 16)
	table, _ := os.ReadFile("/proc/net/tcp")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[3] == synSent && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", number)) {
			local, _ := strconv.ParseUint(fields[1][strings.IndexByte(fields[1], ':')+1:], 16, 16)
			ports = append(ports, strconv.FormatUint(local, 10))
		}
	}
	return ports
}

// connectionsOf is what the nodes' kernels know of a client's ports.
func connectionsOf(ports []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "ports %v\n", ports)
	for _, node := range []string{"server-1", "worker-1", "worker-2"} {
		for _, port := range ports {
			out, _ := command("node", "exec", node, "--", "grep", "port="+port+" ", "/proc/net/nf_conntrack").CombinedOutput() // none is an error
			fmt.Fprintf(&text, "%s: %s", node, out)
		}
	}
	return text.String()
}

func (c *crowd) note(f failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	if f.err != nil {
		c.failures = append(c.failures, f)
	}
}

// stop ends the clients and returns what failed.
func (c *crowd) stop() []failure {
	c.cancel()
	c.done.Wait()
	return c.failures
}
