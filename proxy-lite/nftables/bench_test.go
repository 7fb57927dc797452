package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/proxy-lite/rules"
)

// manyServices makes n Services with the given number of endpoints each.
func manyServices(n, endpoints int) []rules.Service {
	out := make([]rules.Service, n)
	for i := range out {
		vip := netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})
		name := types.NamespacedName{Namespace: "default", Name: fmt.Sprint("svc", i)}
		e := rules.Entry{
			Frontend: rules.Frontend{Addr: vip, Protocol: rules.TCP, Port: 80}, Port: name.String() + ":", Kind: "ClusterIP",
			Refusal: rules.Reject, Masquerade: rules.MasqueradeOffCluster,
		}
		for j := range endpoints {
			e.Endpoints = append(e.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244 + byte(j), byte(i >> 8), byte(i)}), 8080))
		}
		out[i] = rules.Service{Name: name, Entries: []rules.Entry{e}, ClusterIPs: []netip.Addr{vip}}
	}
	return out
}

// BenchmarkKernel writes into the real kernel, in the network namespace it is started in (use "ip netns exec").
func BenchmarkKernel(b *testing.B) {
	if os.Geteuid() != 0 || os.Getenv("KEELSON_BENCH_KERNEL") == "" {
		b.Skip("needs root, a network namespace of its own and KEELSON_BENCH_KERNEL=1")
	}
	cfg := rules.Config{ClusterCIDRs: allPods}
	for _, n := range []int{100, 1000, 10000} {
		services := manyServices(n, 5)
		b.Run(fmt.Sprintf("first-sync-%d", n), func(b *testing.B) {
			for b.Loop() {
				w, err := New(false, cfg)
				if err != nil {
					b.Fatal(err)
				}
				if err := w.Update(context.Background(), services...); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("one-change-%d", n), func(b *testing.B) {
			w, err := New(false, cfg)
			if err != nil {
				b.Fatal(err)
			}
			if err := w.Update(context.Background(), services...); err != nil {
				b.Fatal(err)
			}
			less := services[n/2]
			less.Entries = []rules.Entry{less.Entries[0]}
			less.Entries[0].Endpoints = less.Entries[0].Endpoints[:4]
			i := 0
			for b.Loop() {
				change := services[n/2]
				if i++; i%2 == 1 {
					change = less
				}
				if err := w.Update(context.Background(), change); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
