package services

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"
)

const (
	// repairInterval is upstream's. What it looks for comes about only when a server dies between two writes.
	repairInterval = 3 * time.Minute
	// youth is how long an address may be without its service: the service is written after it.
	youth = time.Minute
	// patience is in how many rounds a port must be found unused before it is given back, for the same reason.
	patience = 3
)

// Repair compares what is allocated with what the services have, once, and again from time to time until ctx ends. The first
// round's error is returned, later ones are logged.
func (a *Allocator) Repair(ctx context.Context) error {
	unused := map[int32]int{}
	if err := a.repairOnce(ctx, unused); err != nil {
		return err
	}
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := a.repairOnce(ctx, unused); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not repair service allocations")
		}
	}, repairInterval, 0.2, true)
	return nil
}

func (a *Allocator) repairOnce(ctx context.Context, unused map[int32]int) error {
	list, err := a.services.List(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	services := list.(*corev1.ServiceList).Items
	portErr := a.repairPorts(ctx, services, unused)
	if portErr != nil {
		portRepairErrors.Inc()
	}
	return errors.Join(a.repairAddresses(ctx, services), portErr)
}

// finding is something wrong that the owner of an object is told by an event.
type finding struct {
	about                runtime.Object
	reason, action, note string
}

func (a *Allocator) tell(recorder Recorder, findings []finding) {
	for _, f := range findings {
		recorder.Eventf(f.about, nil, corev1.EventTypeWarning, f.reason, f.action, "%s", f.note)
	}
}

func (a *Allocator) repairAddresses(ctx context.Context, services []corev1.Service) error {
	list, err := a.addresses.objects.List(detached(ctx), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list IP addresses: %w", err)
	}
	cidrs, err := a.addresses.list(ctx)
	if err != nil {
		return err
	}
	networks := a.addresses.prefixes(cidrs, func(*networkingv1.ServiceCIDR) bool { return true })
	found := list.(*networkingv1.IPAddressList).Items
	countIPs(networks, found)
	r := compareAddresses(services, found, networks, a.clock.Now())
	a.tell(a.config.AddressEvents, append(r.findings, a.addresses.otherDefault(cidrs)...))
	var errs []error
	for _, address := range r.leaked {
		errs = append(errs, a.addresses.delete(ctx, address))
	}
	for _, address := range r.missing {
		_, err := a.addresses.objects.Create(detached(ctx), address, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		switch {
		case err == nil:
			moveIPs(networks, address.Name, 1)
		case !apierrors.IsAlreadyExists(err):
			errs = append(errs, fmt.Errorf("restore %s: %w", address.Name, err))
		}
	}
	return errors.Join(errs...)
}

// otherDefault finds a default ServiceCIDR that a server with other flags has made. Its networks stay in force.
func (a *addresses) otherDefault(cidrs []networkingv1.ServiceCIDR) []finding {
	for i := range cidrs {
		if cidrs[i].Name != defaultCIDRs || slices.Equal(cidrs[i].Spec.CIDRs, cidrStrings(a.initial)) {
			continue
		}
		return []finding{{
			&cidrs[i], "KubernetesDefaultServiceCIDRInconsistent", "ServiceCIDRComparison",
			fmt.Sprintf("The default ServiceCIDR %v does not match the controller flag configurations %s", cidrs[i].Spec.CIDRs, cidrStrings(a.initial)),
		}}
	}
	return nil
}

// addressRepair is what to do about addresses. What is both leaked and missing is made anew.
type addressRepair struct {
	missing, leaked []*networkingv1.IPAddress
	findings        []finding
}

// compareAddresses compares the addresses that services hold with the objects that stand for them.
func compareAddresses(services []corev1.Service, addresses []networkingv1.IPAddress, networks []netip.Prefix, now time.Time) addressRepair {
	r := addressRepair{}
	byName := map[string]*networkingv1.IPAddress{}
	for i := range addresses {
		byName[addresses[i].Name] = &addresses[i]
	}
	holders := map[types.NamespacedName]*corev1.Service{}
	for i := range services {
		holders[types.NamespacedName{Namespace: services[i].Namespace, Name: services[i].Name}] = &services[i]
	}
	for i := range services {
		if service := &services[i]; hasAddress(&service.Spec) && !isHeadless(&service.Spec) {
			for _, ip := range service.Spec.ClusterIPs {
				r.judgeService(service, ip, byName[ip], holders, networks, now)
			}
		}
	}
	for i := range addresses {
		r.judgeAddress(&addresses[i], holders, now)
	}
	return r
}

func (r *addressRepair) judgeService(service *corev1.Service, ip string, address *networkingv1.IPAddress, holders map[types.NamespacedName]*corev1.Service, networks []netip.Prefix, now time.Time) {
	tell := func(reason, action, format string, args ...any) {
		r.findings = append(r.findings, finding{service, reason, action, fmt.Sprintf(format, args...)})
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		tell("ClusterIPNotValid", "ClusterIPValidation", "Cluster IP %s is not a valid IP; please recreate Service", ip)
		return
	}
	family, want := familyOf(addr.AsSlice()), newIPAddress(addr, service.Namespace, service.Name)
	switch {
	case !slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) }):
		tell("ClusterIPOutOfRange", "ClusterIPAllocation", "Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family, ip)
	case address == nil:
		tell("ClusterIPNotAllocated", "ClusterIPAllocation", "Cluster IP [%v]: %s is not allocated; repairing", family, ip)
		r.missing = append(r.missing, want)
	case now.Sub(address.CreationTimestamp.Time) < youth:
	case ownerOf(address) != ownerOf(want):
		if other := holders[ownerOf(address)]; other != nil && slices.Contains(other.Spec.ClusterIPs, ip) {
			tell("ClusterIPAlreadyAllocated", "ClusterIPAllocation", "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, ip)
			return
		}
		tell("ClusterIPNotAllocated", "ClusterIPAllocation", "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, ip, service.Namespace, service.Name)
		r.replace(address, want)
	case !apiequality.Semantic.DeepEqual(address.Labels, want.Labels):
		r.replace(address, want)
	}
}

func (r *addressRepair) replace(address, want *networkingv1.IPAddress) {
	r.leaked, r.missing = append(r.leaked, address), append(r.missing, want)
}

func (r *addressRepair) judgeAddress(address *networkingv1.IPAddress, holders map[types.NamespacedName]*corev1.Service, now time.Time) {
	if address.Labels[networkingv1.LabelManagedBy] != managedBy || now.Sub(address.CreationTimestamp.Time) < youth || slices.Contains(r.leaked, address) {
		return
	}
	reason, note, owner := "IPAddressNotAllocated", "", ownerOf(address)
	switch holder := holders[owner]; {
	case owner == types.NamespacedName{}:
		note = fmt.Sprintf("IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", address.Name, address.Spec.ParentRef)
	case holder == nil:
		note = fmt.Sprintf("IPAddress: %s for Service %s appears to have leaked: cleaning up", address.Name, owner)
	case !hasAddress(&holder.Spec) || !slices.Contains(holder.Spec.ClusterIPs, address.Name):
		reason, note = "IPAddressWrongReference", fmt.Sprintf("IPAddress: %s for Service %s has a wrong reference; cleaning up", address.Name, owner)
	default:
		return
	}
	r.leaked = append(r.leaked, address)
	r.findings = append(r.findings, finding{address, reason, "IPAddressAllocation", note})
}

// ownerOf is the service that an address is for, nothing if it is for something else.
func ownerOf(address *networkingv1.IPAddress) types.NamespacedName {
	if ref := address.Spec.ParentRef; ref != nil && ref.Group == "" && ref.Resource == "services" {
		return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	}
	return types.NamespacedName{}
}

func (a *Allocator) repairPorts(ctx context.Context, services []corev1.Service, unused map[int32]int) error {
	stored, err := a.ports.ranges.Get(ctx)
	if err != nil {
		return fmt.Errorf("read node ports: %w", err)
	}
	used := a.ports.moved(stored)
	a.ports.countPorts(used)
	missing, leaked, findings := a.ports.compare(used, services, unused)
	portRepairs.WithLabelValues("leak").Add(float64(len(leaked)))
	a.tell(a.config.PortEvents, findings)
	if len(missing)+len(leaked) == 0 {
		return nil
	}
	err = a.ports.change(ctx, func(used *big.Int) error {
		for _, port := range missing {
			used.SetBit(used, a.ports.index(port), 1)
		}
		for _, port := range leaked {
			used.SetBit(used, a.ports.index(port), 0)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("repair node ports: %w", err)
	}
	return nil
}

// compare returns the ports that services hold but the bitmap has not, and those that nobody has held for several rounds; unused
// counts these rounds.
func (p *ports) compare(used *big.Int, services []corev1.Service, unused map[int32]int) (missing, leaked []int32, findings []finding) {
	held := map[int32]bool{}
	for i := range services {
		tell := func(kind, reason, format string, args ...any) {
			portRepairs.WithLabelValues(kind).Inc()
			findings = append(findings, finding{&services[i], reason, "PortAllocation", fmt.Sprintf(format, args...)})
		}
		for _, port := range portsOf(&services[i].Spec) {
			switch {
			case !p.all.Contains(int(port)):
				tell("outOfRange", "PortOutOfRange", "Port %d is not within the port range %s; please recreate service", port, p.all.String())
				continue
			case held[port]:
				tell("duplicate", "PortAlreadyAllocated", "Port %d was assigned to multiple services; please recreate service", port)
			case used.Bit(p.index(port)) == 0:
				tell("repair", "PortNotAllocated", "Port %d is not allocated; repairing", port)
				missing = append(missing, port)
			}
			held[port] = true
			delete(unused, port)
		}
	}
	for i := range p.all.Size {
		port := int32(p.all.Base + i)
		if used.Bit(i) == 0 || held[port] {
			continue
		}
		if unused[port]++; unused[port] >= patience {
			leaked = append(leaked, port)
			delete(unused, port)
		}
	}
	return missing, leaked, findings
}
