package services

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/apiserver/registry"
)

// managedBy marks the IPAddress objects of this allocator with upstream's value: either server repairs what the other left.
const managedBy = "ipallocator.k8s.io"

var (
	errTaken   = errors.New("provided IP is already allocated")
	errFull    = errors.New("range is full")
	errNoRange = errors.New("no ServiceCIDR is ready")
)

// addresses hands out cluster IPs. An address is taken by creating its IPAddress object.
type addresses struct {
	objects, cidrs *registry.Kind
	initial        []*net.IPNet
}

func newAddresses(config Config) *addresses {
	return &addresses{objects: config.Addresses, cidrs: config.CIDRs, initial: config.Default}
}

// allocateAddresses gives the service the cluster IPs of its families.
func (a *Allocator) allocateAddresses(ctx context.Context, txn *transaction, service, old *corev1.Service, dryRun bool) field.ErrorList {
	spec := &service.Spec
	a.releaseAddresses(txn, old, spec)
	if !hasAddress(spec) || isHeadless(spec) {
		return nil
	}
	for i, family := range spec.IPFamilies {
		if i < len(spec.ClusterIPs) {
			ip := spec.ClusterIPs[i]
			if old != nil && hasAddress(&old.Spec) && (i < len(old.Spec.ClusterIPs) || slices.Contains(old.Spec.ClusterIPs, ip)) {
				continue // it is there already or cannot change, which validation says
			}
			if err := a.addresses.take(ctx, txn, service, ip, dryRun); err != nil {
				return field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs,
					fmt.Sprintf("failed to allocate IP %s: %v", ip, err))}
			}
			continue
		}
		ip, err := a.addresses.takeAny(ctx, txn, service, family, dryRun)
		if err != nil {
			return field.ErrorList{field.InternalError(field.NewPath("spec", "clusterIPs"), fmt.Errorf("failed to allocate a serviceIP: %w", err))}
		}
		spec.ClusterIPs = append(spec.ClusterIPs, ip)
	}
	if len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	return nil
}

// releaseAddresses gives back, after a successful write, the addresses of old that spec (nil: the service is gone) has not.
func (a *Allocator) releaseAddresses(txn *transaction, old *corev1.Service, spec *corev1.ServiceSpec) {
	if old == nil || !hasAddress(&old.Spec) || isHeadless(&old.Spec) {
		return
	}
	for _, ip := range old.Spec.ClusterIPs {
		if spec != nil && hasAddress(spec) && slices.Contains(spec.ClusterIPs, ip) {
			continue
		}
		txn.onSuccess = append(txn.onSuccess, func(ctx context.Context) error { return a.addresses.release(ctx, old, ip) })
	}
}

// take allocates one address that the client asked for.
func (a *addresses) take(ctx context.Context, txn *transaction, service *corev1.Service, ip string, dryRun bool) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil //nolint:nilerr // validation words it
	}
	prefixes, err := a.ready(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) && usable(p, addr) })
	if at < 0 {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, join(prefixes, familyOf(net.ParseIP(ip))))
	}
	start := time.Now()
	err = a.create(ctx, txn, service, addr, dryRun)
	if !dryRun {
		countIP(prefixes[at], static, start, err)
	}
	return err
}

// takeAny allocates any free address of the family. As upstream, the lower part of a network is left to those who choose their
// address as long as the rest has free ones.
func (a *addresses) takeAny(ctx context.Context, txn *transaction, service *corev1.Service, family corev1.IPFamily, dryRun bool) (string, error) {
	prefixes, err := a.ready(ctx)
	if err != nil {
		return "", err
	}
	last := errNoRange
	for _, prefix := range prefixes {
		if familyOf(prefix.Addr().AsSlice()) != family {
			continue
		}
		start := time.Now()
		addr, err := a.takeFrom(ctx, txn, service, prefix, dryRun)
		if !dryRun {
			countIP(prefix, dynamic, start, err)
		}
		if err == nil {
			return addr.String(), nil
		}
		if last = err; !errors.Is(err, errFull) {
			break
		}
	}
	return "", last
}

func (a *addresses) takeFrom(ctx context.Context, txn *transaction, service *corev1.Service, prefix netip.Prefix, dryRun bool) (netip.Addr, error) {
	size, offset := bounds(prefix)
	addr, err := a.search(ctx, txn, service, prefix, offset, size, dryRun)
	if errors.Is(err, errFull) {
		addr, err = a.search(ctx, txn, service, prefix, 0, offset, dryRun)
	}
	return addr, err
}

// search tries the addresses first+from … first+to-1 of the prefix, beginning anywhere.
func (a *addresses) search(ctx context.Context, txn *transaction, service *corev1.Service, prefix netip.Prefix, from, to uint64, dryRun bool) (netip.Addr, error) {
	if to <= from {
		return netip.Addr{}, errFull
	}
	start := rand.Uint64N(to - from)
	const asGoodAsFull = 1 << 16 // so many taken in a row: looking further would not end within a request
	for i := range min(to-from, asGoodAsFull) {
		addr := add(prefix.Masked().Addr(), 1+from+(start+i)%(to-from))
		if !prefix.Contains(addr) {
			continue
		}
		switch err := a.create(ctx, txn, service, addr, dryRun); {
		case err == nil:
			return addr, nil
		case !errors.Is(err, errTaken):
			return netip.Addr{}, err
		}
		if ctx.Err() != nil {
			return netip.Addr{}, ctx.Err()
		}
	}
	return netip.Addr{}, errFull
}

func (a *addresses) create(ctx context.Context, txn *transaction, service *corev1.Service, addr netip.Addr, dryRun bool) error {
	ctx = detached(ctx)
	name := addr.String()
	if dryRun {
		_, err := a.objects.Get(ctx, name, &metav1.GetOptions{})
		switch {
		case err == nil:
			return errTaken
		case apierrors.IsNotFound(err):
			return nil
		}
		return err
	}
	_, err := a.objects.Create(ctx, newIPAddress(addr, service.Namespace, service.Name), rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return errTaken
	case err != nil:
		return err
	}
	a.move(ctx, name, 1)
	owner := service.DeepCopy() // the caller goes on changing it
	txn.onFailure = append(txn.onFailure, func(ctx context.Context) error { return a.release(ctx, owner, name) })
	return nil
}

// release deletes the object of an address if it is the service's.
func (a *addresses) release(ctx context.Context, service *corev1.Service, ip string) error {
	ctx = detached(ctx)
	obj, err := a.objects.Get(ctx, ip, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", ip, err)
	}
	found := obj.(*networkingv1.IPAddress)
	if ref := found.Spec.ParentRef; ref == nil || ref.Namespace != service.Namespace || ref.Name != service.Name {
		return nil
	}
	return a.delete(ctx, found)
}

func (a *addresses) delete(ctx context.Context, found *networkingv1.IPAddress) error {
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &found.UID}}
	_, _, err := a.objects.Delete(detached(ctx), found.Name, rest.ValidateAllObjectFunc, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("release %s: %w", found.Name, err)
	}
	if err == nil {
		a.move(ctx, found.Name, -1)
	}
	return nil
}

// move follows in the metrics what was allocated or given back.
func (a *addresses) move(ctx context.Context, ip string, by float64) {
	if prefixes, err := a.ready(ctx); err == nil {
		moveIPs(prefixes, ip, by)
	}
}

// ready lists the networks that addresses may come from: those of the ServiceCIDR objects, and before any is there the ones that
// the server was started with.
func (a *addresses) ready(ctx context.Context) ([]netip.Prefix, error) {
	cidrs, err := a.list(ctx)
	if err != nil {
		return nil, err
	}
	prefixes := a.prefixes(cidrs, isReady)
	if len(prefixes) == 0 {
		return nil, errNoRange
	}
	return prefixes, nil
}

func (a *addresses) list(ctx context.Context) ([]networkingv1.ServiceCIDR, error) {
	list, err := a.cidrs.List(detached(ctx), &metainternalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list service networks: %w", err)
	}
	return list.(*networkingv1.ServiceCIDRList).Items, nil
}

func (a *addresses) prefixes(cidrs []networkingv1.ServiceCIDR, counts func(*networkingv1.ServiceCIDR) bool) []netip.Prefix {
	names := cidrStrings(a.initial)
	if len(cidrs) > 0 {
		names = nil
	}
	for i := range cidrs {
		if counts(&cidrs[i]) {
			names = append(names, cidrs[i].Spec.CIDRs...)
		}
	}
	var prefixes []netip.Prefix
	for _, name := range names {
		if prefix, err := netip.ParsePrefix(name); err == nil {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

func cidrStrings(cidrs []*net.IPNet) []string {
	var names []string
	for _, cidr := range cidrs {
		names = append(names, cidr.String())
	}
	return names
}

func isReady(cidr *networkingv1.ServiceCIDR) bool {
	if cidr.DeletionTimestamp != nil {
		return false
	}
	return !slices.ContainsFunc(cidr.Status.Conditions, func(c metav1.Condition) bool {
		return c.Type == networkingv1.ServiceCIDRConditionReady && c.Status == metav1.ConditionFalse
	})
}

func newIPAddress(addr netip.Addr, namespace, name string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: addr.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(addr.AsSlice())),
				networkingv1.LabelManagedBy:       managedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
	}
}

// detached is a context for cluster-scoped objects inside a request for a service: neither its namespace nor its request
// information belong to them.
func detached(ctx context.Context) context.Context {
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		APIGroup: networkingv1.GroupName, APIVersion: "v1", Resource: "ipaddresses", IsResourceRequest: true,
	})
	return genericapirequest.WithNamespace(ctx, metav1.NamespaceNone)
}

// bounds returns how many addresses a network has to give (neither the network's own nor, in IPv4, the broadcast address) and
// how many of the lower ones are left to static choices: min(max(16, size/16), 256), nothing in very small networks.
func bounds(prefix netip.Prefix) (size, offset uint64) {
	host := prefix.Addr().BitLen() - prefix.Bits()
	if host >= 63 {
		host = 62
	}
	size = 1<<host - 1 // all but the network's own address
	if prefix.Addr().Is4() && size > 0 {
		size-- // the broadcast address
	}
	offset = min(max(16, size/16), 256)
	if size < 16 {
		offset = 0
	}
	return size, offset
}

// usable excludes the network's own address and the IPv4 broadcast address.
func usable(prefix netip.Prefix, addr netip.Addr) bool {
	size, _ := bounds(prefix)
	first := prefix.Masked().Addr()
	if addr == first {
		return false
	}
	return !prefix.Addr().Is4() || addr.Compare(add(first, size)) <= 0
}

func add(addr netip.Addr, n uint64) netip.Addr {
	sum := new(big.Int).Add(new(big.Int).SetBytes(addr.AsSlice()), new(big.Int).SetUint64(n))
	raw := sum.FillBytes(make([]byte, addr.BitLen()/8+1))
	out, _ := netip.AddrFromSlice(raw[1:])
	return out
}

func join(prefixes []netip.Prefix, family corev1.IPFamily) string {
	var names []string
	for _, p := range prefixes {
		if familyOf(p.Addr().AsSlice()) == family {
			names = append(names, p.String())
		}
	}
	return strings.Join(names, ",")
}
