package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/internal/bench"
	"keelson.dev/internal/pki"
)

// result is what one proxy needed.
type result struct {
	FirstSync, FirstCPU float64 // seconds from exec until every sample answers, and of CPU time with its nft processes
	Change, SlowChange  float64 // milliseconds from an API write to the kernel: the median, and the slowest
	ChangeCPU           float64 // milliseconds of CPU time for each change
	Anonymous, Peak     float64 // MB of the proxy: after the first sync without what is mapped of files; the most that it ever had
	Tool                float64 // MB: the most that the proxy or one of its nft processes ever had
	Kept, Opened        rate
}

// figures are the lines of the table.
var figures = []struct {
	name     string
	decimals int
	of       func(result) float64
}{
	{"first sync, s", 2, func(r result) float64 { return r.FirstSync }},
	{"its CPU time, s", 2, func(r result) float64 { return r.FirstCPU }},
	{"one change, ms", 1, func(r result) float64 { return r.Change }},
	{"the slowest change, ms", 1, func(r result) float64 { return r.SlowChange }},
	{"CPU time of a change, ms", 1, func(r result) float64 { return r.ChangeCPU }},
	{"anonymous memory, MB", 0, func(r result) float64 { return r.Anonymous }},
	{"peak memory, MB", 0, func(r result) float64 { return r.Peak }},
	{"peak memory with nft, MB", 0, func(r result) float64 { return r.Tool }},
	{"requests on kept connections, per s", 0, func(r result) float64 { return r.Kept.PerSecond }},
	{"p50, ms", 3, func(r result) float64 { return r.Kept.P50 }},
	{"p99, ms", 3, func(r result) float64 { return r.Kept.P99 }},
	{"requests on new connections, per s", 0, func(r result) float64 { return r.Opened.PerSecond }},
	{"p50, ms", 3, func(r result) float64 { return r.Opened.P50 }},
	{"p99, ms", 3, func(r result) float64 { return r.Opened.P99 }},
}

const (
	namespace = "bench"
	nodeName  = "node"
	samples   = 20 // Services that must answer before the first sync counts as done
	// quiet is how long a proxy is left alone: after the first sync, and between changes, of which kube-proxy writes one a second.
	quiet = 1500 * time.Millisecond
	// notYet is how long an address may keep a client waiting that has rules; one that has none does so for ever.
	notYet = 20 * time.Millisecond
	mb     = 1 << 20
)

// clusterIP and endpointIP are the addresses of Service i, and of its endpoint j; movedIP is where endpoints go, one after the other.
func clusterIP(i int) netip.Addr          { return plus("10.96.0.0", 1024+i) }
func (n size) endpointIP(i, j int) string { return plus("10.128.0.0", 1+i*n.Endpoints+j).String() }
func movedIP(n int) netip.Addr            { return plus("10.190.0.0", 1+n) }

func plus(base string, n int) netip.Addr {
	b := netip.MustParseAddr(base).As4()
	n += int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	return netip.AddrFrom4([4]byte{b[0], byte(n >> 16), byte(n >> 8), byte(n)})
}

// once does a task in this network namespace and prints its result.
func once(ctx context.Context, text string) error {
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	n, err := newNode()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	k, err := t.Start(ctx, bench.Keelson)
	if err != nil {
		return err
	}
	r, err := t.measure(ctx, k, n)
	if t.Logs == "" {
		k.Stop("")
	} else {
		k.Stop(filepath.Join(t.Logs, t.Size.String()+"-"+t.Whose))
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (t *task) measure(ctx context.Context, k *bench.Plane, n *node) (r result, err error) {
	if err := t.populate(ctx, k); err != nil {
		return r, fmt.Errorf("populate: %w", err)
	}
	began := time.Now()
	if err := t.startProxy(k); err != nil {
		return r, err
	}
	if err := t.synced(ctx); err != nil {
		return r, fmt.Errorf("first sync: %w", err)
	}
	r.FirstSync = time.Since(began).Seconds()
	first, err := k.Last(1)
	if err != nil {
		return r, err
	}
	r.FirstCPU = first.CPU.Seconds()
	if err := bench.Pause(ctx, 2*quiet); err != nil {
		return r, err
	}
	before, err := k.Last(1)
	if err != nil {
		return r, err
	}
	r.Anonymous = float64(before.Anonymous) / mb
	changes, err := t.change(ctx, k)
	if err != nil {
		return r, fmt.Errorf("change: %w", err)
	}
	after, err := k.Last(1)
	if err != nil {
		return r, err
	}
	r.Change, r.SlowChange = milliseconds(changes[len(changes)/2]), milliseconds(changes[len(changes)-1])
	r.ChangeCPU = milliseconds(after.CPU-before.CPU) / float64(t.Changes)
	services := make([]string, t.Size.Services)
	for i := range services {
		services[i] = frontend(i)
	}
	if r.Kept, r.Opened, err = n.ask(order{services, t.Connections, t.Load}); err != nil {
		return r, fmt.Errorf("requests: %w", err)
	}
	last, err := k.Last(1)
	if err != nil {
		return r, err
	}
	r.Peak, r.Tool = float64(last.Peak)/mb, float64(k.End())/mb
	return r, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// populate makes the node, the Services and their endpoints, which are on other nodes.
func (t *task) populate(ctx context.Context, k *bench.Plane) error {
	_, err := k.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err = k.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	return bench.Parallel(ctx, t.Size.Services, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("service-%d", i)
		_, err := k.Client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: clusterIP(i).String(), Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(serverPort)), Protocol: new(corev1.ProtocolTCP)}},
		}
		for j := range t.Size.Endpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{t.Size.endpointIP(i, j)}, NodeName: new("elsewhere"), Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
			})
		}
		_, err = k.Client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
		return err
	})
}

// startProxy starts ours or upstream's, with one configuration.
func (t *task) startProxy(k *bench.Plane) error {
	kubeconfig, err := k.User("proxy", pki.Request{CommonName: "proxy", Organizations: []string{"system:masters"}})
	if err != nil {
		return err
	}
	config := filepath.Join(k.Dir, "proxy.yaml")
	text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: %s
hostnameOverride: %s
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, podCIDR, nodeName, kubeconfig)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	program := filepath.Join(t.Ours, "proxy-lite")
	if t.Whose == bench.Upstream {
		program = filepath.Join(t.Upstream, "kube-proxy")
	}
	return k.Run(program, "proxy", "--config="+config)
}

func frontend(i int) string { return netip.AddrPortFrom(clusterIP(i), 80).String() }

// synced returns when Services from the first to the last answer. Both proxies write all that they know in one transaction.
func (t *task) synced(ctx context.Context) error {
	for s := range samples {
		dialer := net.Dialer{Timeout: notYet}
		for {
			c, err := dialer.DialContext(ctx, "tcp4", frontend(s*(t.Size.Services-1)/(samples-1)))
			if err == nil {
				if err := c.Close(); err != nil {
					return err
				}
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := bench.Pause(ctx, time.Millisecond); err != nil { // where the answer is a refusal
				return err
			}
		}
	}
	return nil
}

// change moves one endpoint of some Service to another address, again and again, and returns how long each took, sorted.
func (t *task) change(ctx context.Context, k *bench.Plane) ([]time.Duration, error) {
	kernel, err := watchKernel()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	var took []time.Duration
	for n := range t.Changes {
		if err := bench.Pause(ctx, quiet); err != nil {
			return nil, err
		}
		name, to := fmt.Sprintf("service-%d", rand.IntN(t.Size.Services)), movedIP(n)
		patch := fmt.Appendf(nil, `[{"op":"replace","path":"/endpoints/%d/addresses/0","value":%q}]`, rand.IntN(t.Size.Endpoints), to)
		began := time.Now()
		if _, err := k.Client.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
			return nil, err
		}
		at, err := kernel.has(to)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", to, name, err)
		}
		took = append(took, at.Sub(began))
	}
	slices.Sort(took)
	return took, nil
}
