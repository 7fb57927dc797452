// Package nodeipam gives each node its range of pod addresses out of the cluster's.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// Ranges are the cluster's ranges and the sizes of the parts that nodes get, index by index.
type Ranges struct {
	Cluster []netip.Prefix
	Bits    []int
	Taken   []netip.Prefix // never given away, such as the service range
}

// Parse reads the ranges out of a configuration.
func Parse(clusterCIDRs, serviceCIDRs []string, maskV4, maskV6 int) (Ranges, error) {
	var ranges Ranges
	for _, text := range clusterCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Ranges{}, fmt.Errorf("cluster CIDR: %w", err)
		}
		bits := maskV4
		if prefix.Addr().Is6() {
			bits = maskV6
		}
		if bits < prefix.Bits() {
			return Ranges{}, fmt.Errorf("cluster CIDR %s is smaller than the /%d that each node gets", prefix, bits)
		}
		ranges.Cluster = append(ranges.Cluster, prefix.Masked())
		ranges.Bits = append(ranges.Bits, bits)
	}
	for _, text := range serviceCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Ranges{}, fmt.Errorf("service CIDR: %w", err)
		}
		ranges.Taken = append(ranges.Taken, prefix.Masked())
	}
	return ranges, nil
}

// Add wires the controller.
func Add(e *env.Env, ranges Ranges) error {
	if len(ranges.Cluster) == 0 {
		return nil
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	r := &reconciler{env: e, nodes: nodes, ranges: ranges, given: map[string][]netip.Prefix{}}
	// One worker: two nodes must not look for a free part at the same time.
	return e.Controller("node-ipam", 1, r.reconcile, env.For(&corev1.Node{}))
}

type reconciler struct {
	env    *env.Env
	nodes  lister.Of[*corev1.Node]
	ranges Ranges

	mu    sync.Mutex
	given map[string][]netip.Prefix // by us, perhaps not in the cache yet
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	node, ok := r.nodes.Find("", req.Name)
	if !ok {
		delete(r.given, req.Name)
		return ctrl.Result{}, nil
	}
	if len(node.Spec.PodCIDRs) > 0 || node.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	prefixes := r.given[node.Name]
	if prefixes == nil {
		var err error
		if prefixes, err = r.ranges.next(r.used()); err != nil {
			r.env.Recorder("cidrAllocator").Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", node.Name)
			return ctrl.Result{}, err
		}
		r.given[node.Name] = prefixes
	}
	texts := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": texts[0], "podCIDRs": texts},
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	err = r.env.Client.Patch(ctx, node.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, body))
	return ctrl.Result{}, client.IgnoreNotFound(err)
}

// used returns all parts that nodes have.
func (r *reconciler) used() map[netip.Prefix]bool {
	used := map[netip.Prefix]bool{}
	for _, node := range r.nodes.All() {
		for _, text := range node.Spec.PodCIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				used[prefix.Masked()] = true
			}
		}
	}
	for _, prefixes := range r.given {
		for _, prefix := range prefixes {
			used[prefix] = true
		}
	}
	return used
}

// next returns the lowest free part of each range.
func (r Ranges) next(used map[netip.Prefix]bool) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, cluster := range r.Cluster {
		part, ok := free(cluster, r.Bits[i], func(p netip.Prefix) bool {
			if used[p] {
				return false
			}
			for _, taken := range r.Taken {
				if taken.Overlaps(p) {
					return false
				}
			}
			return true
		})
		if !ok {
			return nil, fmt.Errorf("no free /%d left in %s", r.Bits[i], cluster)
		}
		out = append(out, part)
	}
	return out, nil
}

// free returns the first part of that many bits for which ok holds.
func free(cluster netip.Prefix, bits int, ok func(netip.Prefix) bool) (netip.Prefix, bool) {
	for part := netip.PrefixFrom(cluster.Addr(), bits); part.IsValid() && cluster.Contains(part.Addr()); part = after(part) {
		if ok(part) {
			return part, true
		}
	}
	return netip.Prefix{}, false
}

// after returns the part that follows p; the invalid prefix after the last one.
func after(p netip.Prefix) netip.Prefix {
	raw := p.Addr().AsSlice()
	carry := byte(1) << (7 - (p.Bits()-1)%8)
	for i := (p.Bits() - 1) / 8; i >= 0; i-- {
		raw[i] += carry
		if raw[i] >= carry {
			addr, _ := netip.AddrFromSlice(raw)
			return netip.PrefixFrom(addr, p.Bits())
		}
		carry = 1
	}
	return netip.Prefix{}
}
