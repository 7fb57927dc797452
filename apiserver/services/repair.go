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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	return errors.Join(a.repairAddresses(ctx, services), a.repairPorts(ctx, services, unused))
}

func (a *Allocator) repairAddresses(ctx context.Context, services []corev1.Service) error {
	list, err := a.addresses.objects.List(detached(ctx), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list IP addresses: %w", err)
	}
	var errs []error
	missing, leaked := compareAddresses(services, list.(*networkingv1.IPAddressList).Items, a.clock.Now())
	for _, address := range missing {
		_, err := a.addresses.objects.Create(detached(ctx), address, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("restore %s: %w", address.Name, err))
		}
	}
	for _, address := range leaked {
		errs = append(errs, a.addresses.delete(ctx, address))
	}
	return errors.Join(errs...)
}

// compareAddresses returns the objects that services lack, and those of ours that belong to no service any more.
func compareAddresses(services []corev1.Service, addresses []networkingv1.IPAddress, now time.Time) (missing, leaked []*networkingv1.IPAddress) {
	type owner struct{ namespace, name string }
	owners := map[string]owner{}
	for _, service := range services {
		if !hasAddress(&service.Spec) || isHeadless(&service.Spec) {
			continue
		}
		for _, ip := range service.Spec.ClusterIPs {
			owners[ip] = owner{service.Namespace, service.Name}
		}
	}
	have := map[string]bool{}
	for i := range addresses {
		address := &addresses[i]
		have[address.Name] = true
		ref := address.Spec.ParentRef
		if address.Labels[networkingv1.LabelManagedBy] != managedBy || ref == nil || now.Sub(address.CreationTimestamp.Time) < youth {
			continue
		}
		if owners[address.Name] != (owner{ref.Namespace, ref.Name}) {
			leaked = append(leaked, address)
		}
	}
	for ip, o := range owners {
		if addr, err := netip.ParseAddr(ip); err == nil && !have[ip] {
			missing = append(missing, newIPAddress(addr, o.namespace, o.name))
		}
	}
	return missing, leaked
}

func (a *Allocator) repairPorts(ctx context.Context, services []corev1.Service, unused map[int32]int) error {
	var wanted []int32
	for i := range services {
		wanted = append(wanted, portsOf(&services[i].Spec)...)
	}
	stored, err := a.ports.ranges.Get(ctx)
	if err != nil {
		return fmt.Errorf("read node ports: %w", err)
	}
	missing, leaked := a.ports.compare(a.ports.moved(stored), wanted, unused)
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
func (p *ports) compare(used *big.Int, wanted []int32, unused map[int32]int) (missing, leaked []int32) {
	for _, port := range wanted {
		delete(unused, port)
		if p.all.Contains(int(port)) && used.Bit(p.index(port)) == 0 {
			missing = append(missing, port)
		}
	}
	for i := range p.all.Size {
		port := int32(p.all.Base + i)
		if used.Bit(i) == 0 || slices.Contains(wanted, port) {
			continue
		}
		if unused[port]++; unused[port] >= patience {
			leaked = append(leaked, port)
			delete(unused, port)
		}
	}
	return missing, leaked
}
