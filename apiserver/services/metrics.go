package services

import (
	"math/big"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// How an address or port came to be allocated: the label "scope".
const (
	static  = "static" // the client chose it
	dynamic = "dynamic"
)

// Upstream's metrics of the allocators and of the repair loop. The gauges are exact after each repair; in between they follow what
// this server does.
var (
	allocatedIPs   = metrics.NewGaugeVec(gauge("clusterip", "allocated_ips", "Cluster IPs that services have, by network"), []string{"cidr"})
	availableIPs   = metrics.NewGaugeVec(gauge("clusterip", "available_ips", "Cluster IPs that are free, by network"), []string{"cidr"})
	allocatedPorts = metrics.NewGauge(gauge("nodeport", "allocated_ports", "Node ports that services have"))
	availablePorts = metrics.NewGauge(gauge("nodeport", "available_ports", "Node ports that are free"))

	ipAllocations   = metrics.NewCounterVec(counter("kube_apiserver", "clusterip_allocator", "allocation_total", "Cluster IPs that were allocated"), []string{"cidr", "scope"})
	ipErrors        = metrics.NewCounterVec(counter("kube_apiserver", "clusterip_allocator", "allocation_errors_total", "Cluster IPs that could not be allocated"), []string{"cidr", "scope"})
	portAllocations = metrics.NewCounterVec(counter("kube_apiserver", "nodeport_allocator", "allocation_total", "Node ports that were allocated"), []string{"scope"})
	portErrors      = metrics.NewCounterVec(counter("kube_apiserver", "nodeport_allocator", "allocation_errors_total", "Node ports that could not be allocated"), []string{"scope"})
	ipLatency       = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Namespace: "kube_apiserver", Subsystem: "clusterip_allocator", Name: "allocation_duration_seconds", Buckets: metrics.DefBuckets,
		Help: "Seconds until a cluster IP was allocated, by network", StabilityLevel: metrics.ALPHA,
	}, []string{"cidr"})

	portRepairs = metrics.NewCounterVec(counter("apiserver", "nodeport_repair", "port_errors_total",
		"What the repair loop has found wrong with node ports: leak, repair, outOfRange or duplicate"), []string{"type"})
	portRepairErrors = metrics.NewCounter(counter("apiserver", "nodeport_repair", "reconcile_errors_total", "Rounds of the repair loop that could not mend the node ports"))
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(allocatedIPs, availableIPs, allocatedPorts, availablePorts, ipAllocations, ipErrors, portAllocations, portErrors,
		ipLatency, portRepairs, portRepairErrors)
})

func gauge(of, name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Namespace: "kube_apiserver", Subsystem: of + "_allocator", Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

func counter(namespace, subsystem, name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

// countIP counts an attempt to allocate an address of the network that began at start.
func countIP(prefix netip.Prefix, scope string, start time.Time, err error) {
	cidr := prefix.String()
	if err != nil {
		ipErrors.WithLabelValues(cidr, scope).Inc()
		return
	}
	ipAllocations.WithLabelValues(cidr, scope).Inc()
	ipLatency.WithLabelValues(cidr).Observe(time.Since(start).Seconds())
}

// countIPs sets the gauges of each network to what its addresses say. An address counts for the first network that has it.
func countIPs(prefixes []netip.Prefix, addresses []networkingv1.IPAddress) {
	taken := make([]int, len(prefixes))
	for i := range addresses {
		if at := networkOf(prefixes, addresses[i].Name); at >= 0 {
			taken[at]++
		}
	}
	for i, prefix := range prefixes {
		size, _ := bounds(prefix)
		allocatedIPs.WithLabelValues(prefix.String()).Set(float64(taken[i]))
		availableIPs.WithLabelValues(prefix.String()).Set(float64(size) - float64(taken[i]))
	}
}

// moveIPs follows one address that was allocated (1) or given back (-1).
func moveIPs(prefixes []netip.Prefix, ip string, by float64) {
	if at := networkOf(prefixes, ip); at >= 0 {
		allocatedIPs.WithLabelValues(prefixes[at].String()).Add(by)
		availableIPs.WithLabelValues(prefixes[at].String()).Add(-by)
	}
}

// networkOf is the index of the first network that has the address; -1: none.
func networkOf(prefixes []netip.Prefix, ip string) int {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// countPort counts an attempt to allocate a node port.
func countPort(scope string, err error) {
	if err != nil {
		portErrors.WithLabelValues(scope).Inc()
		return
	}
	portAllocations.WithLabelValues(scope).Inc()
}

// countPorts sets the gauges to what the bitmap says.
func (p *ports) countPorts(used *big.Int) {
	taken := 0
	for _, word := range used.Bits() {
		taken += bits.OnesCount(uint(word))
	}
	allocatedPorts.Set(float64(taken))
	availablePorts.Set(float64(p.all.Size - taken))
}
