package services

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

// Ranges stores the bitmap of node ports.
type Ranges interface {
	// Update changes the stored bitmap in one transaction; change may be called several times.
	Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error
	Get(ctx context.Context) (*corev1.RangeAllocation, error)
}

// NewRanges keeps the bitmap where upstream has it.
func NewRanges(s storage.Interface) Ranges { return &ranges{s} }

// RangesPrefix is where the store given to NewRanges begins, below the prefix of all of it; both keys are upstream's.
const (
	RangesPrefix = "/ranges"
	portsKey     = RangesPrefix + "/servicenodeports"
)

type ranges struct{ storage storage.Interface }

// Update implements Ranges.
func (r *ranges) Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error {
	return r.storage.GuaranteedUpdate(ctx, portsKey, &corev1.RangeAllocation{}, true, nil,
		func(input runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			changed := input.(*corev1.RangeAllocation).DeepCopy()
			return changed, nil, change(changed)
		}, nil)
}

// Get implements Ranges.
func (r *ranges) Get(ctx context.Context) (*corev1.RangeAllocation, error) {
	found := &corev1.RangeAllocation{}
	return found, r.storage.Get(ctx, portsKey, storage.GetOptions{IgnoreNotFound: true}, found)
}

var (
	errPortTaken = errors.New("provided port is already allocated")
	errPortsFull = errors.New("range is full")
)

// ports hands out node ports.
type ports struct {
	ranges Ranges
	all    utilnet.PortRange
}

// allocatePorts gives the service its node ports and its health check port.
func (a *Allocator) allocatePorts(ctx context.Context, txn *transaction, service, old *corev1.Service, dryRun bool) field.ErrorList {
	spec := &service.Spec
	a.releasePorts(txn, specOf(old), spec)
	held := portsOf(specOf(old))
	var errs field.ErrorList
	if wantsNodePorts(spec) {
		errs = append(errs, a.ports.fill(ctx, txn, spec, held, dryRun)...)
	} else {
		errs = append(errs, a.ports.takeGiven(ctx, txn, spec, held, dryRun)...)
	}
	if len(errs) > 0 || !wantsHealthCheckPort(spec) {
		return errs
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	switch port := spec.HealthCheckNodePort; {
	case port == 0:
		next, err := a.ports.takeAny(ctx, txn, nil, dryRun)
		if err != nil {
			return field.ErrorList{field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: %w", err))}
		}
		spec.HealthCheckNodePort = next
	case old != nil && wantsHealthCheckPort(&old.Spec): // it cannot change, which validation says
	case !slices.Contains(held, port):
		if err := a.ports.take(ctx, txn, port, dryRun); err != nil {
			return field.ErrorList{field.Invalid(path, port, err.Error())}
		}
	}
	return nil
}

// releasePorts gives back, after a successful write, the ports of old that spec (nil: the service is gone) has not.
func (a *Allocator) releasePorts(txn *transaction, old, spec *corev1.ServiceSpec) {
	kept := portsOf(spec)
	for _, port := range portsOf(old) {
		if !slices.Contains(kept, port) {
			txn.onSuccess = append(txn.onSuccess, func(ctx context.Context) error { return a.ports.release(ctx, port) })
		}
	}
}

// fill allocates a node port for every port of the spec. One number serves several protocols of the same port.
func (p *ports) fill(ctx context.Context, txn *transaction, spec *corev1.ServiceSpec, held []int32, dryRun bool) field.ErrorList {
	errs := p.takeGiven(ctx, txn, spec, held, dryRun)
	if len(errs) > 0 {
		return errs
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.NodePort != 0 {
			continue
		}
		if shared := sharedNodePort(spec.Ports, port); shared != 0 {
			port.NodePort = shared
			continue
		}
		next, err := p.takeAny(ctx, txn, portsOf(spec), dryRun)
		if err != nil {
			return field.ErrorList{field.InternalError(field.NewPath("spec", "ports").Index(i).Child("nodePort"), fmt.Errorf("failed to allocate a nodePort: %w", err))}
		}
		port.NodePort = next
	}
	return nil
}

// takeGiven allocates the node ports that the client chose.
func (p *ports) takeGiven(ctx context.Context, txn *transaction, spec *corev1.ServiceSpec, held []int32, dryRun bool) field.ErrorList {
	if spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil // validation refuses them there
	}
	taken := slices.Clone(held)
	for i, port := range spec.Ports {
		if port.NodePort == 0 || slices.Contains(taken, port.NodePort) {
			continue
		}
		if err := p.take(ctx, txn, port.NodePort, dryRun); err != nil {
			return field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), port.NodePort, err.Error())}
		}
		taken = append(taken, port.NodePort)
	}
	return nil
}

// sharedNodePort finds the node port of the same port with another protocol, unless that protocol pair is taken already.
func sharedNodePort(all []corev1.ServicePort, port *corev1.ServicePort) int32 {
	for _, o := range all {
		if o.NodePort == 0 || o.Port != port.Port || o.Protocol == port.Protocol {
			continue
		}
		clash := slices.ContainsFunc(all, func(x corev1.ServicePort) bool { return x.NodePort == o.NodePort && x.Protocol == port.Protocol })
		if !clash {
			return o.NodePort
		}
	}
	return 0
}

func (p *ports) take(ctx context.Context, txn *transaction, port int32, dryRun bool) error {
	inRange := p.all.Contains(int(port))
	if dryRun { // clients have never been told of the range here
		found, err := p.ranges.Get(ctx)
		if err == nil && inRange && p.moved(found).Bit(p.index(port)) == 1 {
			err = errPortTaken
		}
		return err
	}
	if !inRange {
		portErrors.WithLabelValues(static).Inc()
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", p.all.String())
	}
	err := p.change(ctx, func(used *big.Int) error {
		if used.Bit(p.index(port)) == 1 {
			return errPortTaken
		}
		used.SetBit(used, p.index(port), 1)
		return nil
	})
	countPort(static, err)
	if err == nil {
		txn.onFailure = append(txn.onFailure, func(ctx context.Context) error { return p.release(ctx, port) })
	}
	return err
}

// takeAny allocates any free port but those in avoid. Like upstream it leaves the lower part of the range, min(max(16, size/32),
// 128) ports, to those who choose theirs as long as the rest has free ones.
func (p *ports) takeAny(ctx context.Context, txn *transaction, avoid []int32, dryRun bool) (int32, error) {
	var port int32
	pick := func(used *big.Int) error {
		size := p.all.Size
		offset := min(max(16, size/32), 128)
		if size < 16 {
			offset = 0
		}
		for _, band := range [][2]int{{offset, size}, {0, offset}} {
			width := band[1] - band[0]
			if width <= 0 {
				continue
			}
			start := rand.IntN(width)
			for i := range width {
				index := band[0] + (start+i)%width
				candidate := int32(p.all.Base + index)
				if used.Bit(index) == 0 && !slices.Contains(avoid, candidate) {
					used.SetBit(used, index, 1)
					port = candidate
					return nil
				}
			}
		}
		return errPortsFull
	}
	if dryRun {
		found, err := p.ranges.Get(ctx)
		if err != nil {
			return 0, err
		}
		err = pick(p.moved(found))
		return port, err
	}
	err := p.change(ctx, pick)
	if countPort(dynamic, err); err != nil {
		return 0, err
	}
	given := port
	txn.onFailure = append(txn.onFailure, func(ctx context.Context) error { return p.release(ctx, given) })
	return given, nil
}

func (p *ports) release(ctx context.Context, port int32) error {
	if !p.all.Contains(int(port)) {
		return nil
	}
	err := p.change(ctx, func(used *big.Int) error {
		used.SetBit(used, p.index(port), 0)
		return nil
	})
	if err != nil {
		return fmt.Errorf("release node port %d: %w", port, err)
	}
	return nil
}

// change alters the bitmap of this server's port range. A bitmap of another range, left by a server with other flags, is moved.
func (p *ports) change(ctx context.Context, alter func(*big.Int) error) error {
	var used *big.Int
	err := p.ranges.Update(ctx, func(stored *corev1.RangeAllocation) error {
		used = p.moved(stored)
		if err := alter(used); err != nil {
			return err
		}
		stored.Range, stored.Data = p.all.String(), used.Bytes()
		return nil
	})
	if err == nil {
		p.countPorts(used)
	}
	return err
}

func (p *ports) moved(stored *corev1.RangeAllocation) *big.Int {
	used := bitmapOf(stored)
	former, err := utilnet.ParsePortRange(stored.Range)
	if stored.Range == "" || err != nil || *former == p.all {
		return used
	}
	moved := new(big.Int)
	for i := range former.Size {
		if port := former.Base + i; used.Bit(i) == 1 && p.all.Contains(port) {
			moved.SetBit(moved, p.index(int32(port)), 1)
		}
	}
	return moved
}

func (p *ports) index(port int32) int { return int(port) - p.all.Base }

func bitmapOf(stored *corev1.RangeAllocation) *big.Int { return new(big.Int).SetBytes(stored.Data) }

// portsOf lists every node port that the spec holds.
func portsOf(spec *corev1.ServiceSpec) []int32 {
	if spec == nil || spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var all []int32
	for _, port := range spec.Ports {
		if port.NodePort != 0 && !slices.Contains(all, port.NodePort) {
			all = append(all, port.NodePort)
		}
	}
	if wantsHealthCheckPort(spec) && spec.HealthCheckNodePort != 0 {
		all = append(all, spec.HealthCheckNodePort)
	}
	return all
}

func wantsNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(spec.AllocateLoadBalancerNodePorts, true)
}

func wantsHealthCheckPort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}
