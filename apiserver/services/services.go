// Package services gives services what only the API server can hand out: cluster IPs, node ports and health check ports. A cluster
// IP is an IPAddress object, so that several API servers never give out the same one; node ports are a bitmap in the store. Both
// are taken before a service is written and given back after it is gone; a repair loop finds what a crash in between left over.
package services

import (
	"context"
	"net"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/apis/core"
	"keelson.dev/apiserver/registry"
)

// Config is what the allocators stand on.
type Config struct {
	Services, Addresses, CIDRs *registry.Kind
	// Ranges is the store of the node port bitmap.
	Ranges Ranges
	// Default are the service networks that this server was started with; the first is of the primary family.
	Default   []*net.IPNet
	NodePorts utilnet.PortRange
	Clock     clock.PassiveClock
	// AddressEvents and PortEvents are told what the repair loop finds.
	AddressEvents, PortEvents Recorder
}

// Recorder writes an event about an object, as an EventRecorder of client-go/tools/events does.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// Allocator hangs onto the store of services.
type Allocator struct {
	config    Config
	services  *registry.Kind
	families  []corev1.IPFamily
	addresses *addresses
	ports     *ports
	clock     clock.PassiveClock
}

// New returns the allocator and hangs it onto config.Services.
func New(config Config) *Allocator {
	registerMetrics()
	a := &Allocator{
		config:    config,
		services:  config.Services,
		addresses: newAddresses(config),
		ports:     &ports{ranges: config.Ranges, all: config.NodePorts},
		clock:     config.Clock,
	}
	for _, cidr := range config.Default {
		a.families = append(a.families, familyOf(cidr.IP))
	}
	store := config.Services.Store
	store.BeginCreate = a.beginCreate
	store.BeginUpdate = a.beginUpdate
	store.AfterDelete = a.afterDelete
	return a
}

func (a *Allocator) beginCreate(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
	service := obj.(*corev1.Service)
	a.services.Row.Prepare(service, nil)
	return a.begin(ctx, service, nil, dryrun.IsDryRun(options.DryRun))
}

func (a *Allocator) beginUpdate(ctx context.Context, obj, oldObj runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
	service, old := obj.(*corev1.Service), oldObj.(*corev1.Service)
	a.services.Row.Prepare(service, old)
	return a.begin(ctx, service, old, dryrun.IsDryRun(options.DryRun))
}

// begin allocates what the service lacks. The returned function ends the transaction: on success it gives back what the service
// no longer has, on failure what it was given.
func (a *Allocator) begin(ctx context.Context, service, old *corev1.Service, dryRun bool) (genericregistry.FinishFunc, error) {
	txn := &transaction{}
	var errs field.ErrorList
	errs = append(errs, core.ValidateServiceAddresses(service, specOf(old))...)
	if len(errs) == 0 {
		errs = planFamilies(&service.Spec, specOf(old), a.families)
	}
	if len(errs) == 0 {
		errs = append(errs, a.allocateAddresses(ctx, txn, service, old, dryRun)...)
	}
	if len(errs) == 0 {
		errs = append(errs, a.allocatePorts(ctx, txn, service, old, dryRun)...)
	}
	if len(errs) > 0 {
		txn.finish(ctx, false)
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), service.Name, errs)
	}
	if dryRun {
		return func(context.Context, bool) {}, nil
	}
	return txn.finish, nil
}

func (a *Allocator) afterDelete(obj runtime.Object, options *metav1.DeleteOptions) {
	if dryrun.IsDryRun(options.DryRun) {
		return
	}
	service := obj.(*corev1.Service)
	txn := &transaction{}
	a.releaseAddresses(txn, service, nil)
	a.releasePorts(txn, &service.Spec, nil)
	// The client may have gone by now, the service is gone in any case.
	txn.finish(context.Background(), true)
}

// transaction collects what to do when a write has succeeded or failed. Both kinds only give something back, so an error leaves
// something allocated that nobody uses: the repair loop finds it.
type transaction struct {
	onSuccess, onFailure []func(context.Context) error
}

func (t *transaction) finish(ctx context.Context, success bool) {
	steps := t.onFailure
	if success {
		steps = t.onSuccess
	}
	ctx = context.WithoutCancel(ctx)
	for _, step := range steps {
		if err := step(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not give back what a service had; the repair loop will")
		}
	}
}

func specOf(service *corev1.Service) *corev1.ServiceSpec {
	if service == nil {
		return nil
	}
	return &service.Spec
}

// hasAddress tells whether the type of the service comes with cluster IPs.
func hasAddress(spec *corev1.ServiceSpec) bool {
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	default:
		return false
	}
}

func isHeadless(spec *corev1.ServiceSpec) bool {
	return len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func familyOf(ip net.IP) corev1.IPFamily {
	if ip.To4() != nil {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
