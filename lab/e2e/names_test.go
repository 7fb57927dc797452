//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dnsPort is the cluster's DNS on a port of every node, so that the machine can ask through a node's service rules.
const dnsPort = `
apiVersion: v1
kind: Service
metadata: {name: e2e-names, namespace: kube-system}
spec:
  type: NodePort
  selector: {k8s-app: kube-dns}
  ports: [{port: 53, protocol: UDP}]
`

// TestNames asks for a name fifty times a second while one CoreDNS after the other is lost. A resolver asks twice, and no lookup may fail but,
// where the loss comes without warning, one that was sent before the endpoint was withdrawn and met it with both questions.
func TestNames(t *testing.T) {
	needTraffic(t)
	client := clientset(t)
	create := kubectlCommand("apply", "-f", "-")
	create.Stdin = strings.NewReader(dnsPort)
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = kubectl("delete", "-n", "kube-system", "service/e2e-names", "--wait=false") })
	port := output(t, "get", "-n", "kube-system", "service/e2e-names", "-o", "jsonpath={.spec.ports[0].nodePort}")
	address := net.JoinHostPort(serverAddress(t), port)
	slices := client.DiscoveryV1().EndpointSlices("kube-system")
	ofDNS := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"}
	whole := func() {
		t.Helper()
		waitFor(t, 2*time.Minute, func() error {
			list, err := slices.List(t.Context(), ofDNS)
			if err == nil && (len(list.Items) != 1 || readyEndpoints(&list.Items[0], "") != 2) {
				err = fmt.Errorf("DNS has not two endpoints: %v", list)
			}
			return err
		})
	}
	whole()
	waitFor(t, time.Minute, func() error { return lookup(t.Context(), address) })
	pods := func(field string) []string {
		return strings.Fields(output(t, "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*]."+field+"}"))
	}
	for _, loss := range []struct {
		name   string
		do     func() error
		warned bool // the endpoint goes first
	}{
		{"Delete", func() error {
			return kubectl("delete", "pod", "-n", "kube-system", pods("metadata.name")[0], "--wait=false")
		}, true},
		{"DeleteAtOnce", func() error {
			return kubectl("delete", "pod", "-n", "kube-system", pods("metadata.name")[0], "--grace-period=0", "--force")
		}, false},
		{"KillProcess", func() error { return killInNode(pods("spec.nodeName")[0], "/etc/coredns/Corefile") }, false},
	} {
		t.Run(loss.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			endpoints, err := slices.Watch(ctx, ofDNS)
			must(t, err)
			defer endpoints.Stop()
			asking := startAsking(ctx, address)
			time.Sleep(time.Second) // a client in its stride; a test may wait
			struck := time.Now()
			must(t, loss.do())
			for event := range endpoints.ResultChan() {
				if slice, ok := event.Object.(*discoveryv1.EndpointSlice); ok && readyEndpoints(slice, "") < 2 {
					break
				}
			}
			withdrawn := time.Now()
			time.Sleep(5 * time.Second) // the lameduck time of CoreDNS
			whole()
			time.Sleep(time.Second)
			asked, failures := asking.stop()
			for _, f := range failures {
				if loss.warned || f.sent.After(withdrawn.Add(behind)) {
					t.Errorf("%s after the loss: %v", f.sent.Sub(struck).Round(time.Millisecond), f.err)
				}
			}
			t.Logf("figures: %s: %d of %d lookups failed; the endpoint was withdrawn after %.1f s", loss.name, len(failures), asked, withdrawn.Sub(struck).Seconds())
		})
	}
}

// asking is a client that looks a name up again and again, each time on its own.
type asking struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	asked    int
	failures []failure
}

func startAsking(ctx context.Context, address string) *asking {
	ctx, cancel := context.WithCancel(ctx)
	a := &asking{cancel: cancel}
	a.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			a.done.Go(func() { // ends by the resolver's own timeouts
				sent := time.Now()
				err := lookup(context.WithoutCancel(ctx), address)
				a.mu.Lock()
				defer a.mu.Unlock()
				a.asked++
				if err != nil {
					a.failures = append(a.failures, failure{sent, time.Now(), err})
				}
			})
		}
	})
	return a
}

func (a *asking) stop() (asked int, failures []failure) {
	a.cancel()
	a.done.Wait()
	return a.asked, a.failures
}

// lookup resolves a name as a program in a pod would: with two questions of up to five seconds, each from a port of its own.
func lookup(ctx context.Context, address string) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", address)
	}}
	found, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err == nil && len(found) == 0 {
		return fmt.Errorf("no address")
	}
	return err
}
