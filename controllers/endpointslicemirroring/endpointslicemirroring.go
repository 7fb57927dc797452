// Package endpointslicemirroring copies Endpoints that somebody else writes, for Services without a selector, into EndpointSlices,
// which is what proxies read.
package endpointslicemirroring

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	utilnet "k8s.io/utils/net"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

const (
	controllerName = "endpointslicemirroring-controller.k8s.io"
	maxPerSubset   = 1000 // addresses of a subset that are mirrored
)

type reconciler struct {
	client    client.Client
	services  lister.Of[*corev1.Service]
	endpoints lister.Of[*corev1.Endpoints]
	slices    lister.Of[*discoveryv1.EndpointSlice]
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	services, err := env.Lister(e, &corev1.Service{})
	if err != nil {
		return err
	}
	endpoints, err := env.Lister(e, &corev1.Endpoints{})
	if err != nil {
		return err
	}
	list, err := env.Lister(e, &discoveryv1.EndpointSlice{})
	if err != nil {
		return err
	}
	r := &reconciler{client: e.Client, services: services, endpoints: endpoints, slices: list}
	return e.Controller("endpointslice-mirroring", workers, r.reconcile,
		env.For(&corev1.Endpoints{}), env.For(&corev1.Service{}),
		env.Mapped(&discoveryv1.EndpointSlice{}, func(s *discoveryv1.EndpointSlice) []types.NamespacedName {
			if s.Labels[discoveryv1.LabelManagedBy] != controllerName {
				return nil
			}
			return []types.NamespacedName{{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}}
		}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	svc, hasService := r.services.Find(req.Namespace, req.Name)
	eps, ok := r.endpoints.Find(req.Namespace, req.Name)
	var wanted []*discoveryv1.EndpointSlice
	if ok && hasService && svc.Spec.Selector == nil && svc.Spec.Type != corev1.ServiceTypeExternalName && mirrored(eps) {
		wanted = mirror(eps)
	}
	var have []*discoveryv1.EndpointSlice
	for _, slice := range r.slices.In(req.Namespace) {
		if slice.Labels[discoveryv1.LabelManagedBy] == controllerName && slice.Labels[discoveryv1.LabelServiceName] == req.Name && slice.DeletionTimestamp == nil {
			have = append(have, slice)
		}
	}
	return ctrl.Result{}, r.apply(ctx, wanted, have)
}

// mirrored reports whether Endpoints should be copied: not those that say no, nor those that only hold a leader's lock.
func mirrored(eps *corev1.Endpoints) bool {
	_, lock := eps.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return eps.DeletionTimestamp == nil && !lock && eps.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// apply turns what is there into what is wanted, slice by slice of the same family and ports.
func (r *reconciler) apply(ctx context.Context, wanted, have []*discoveryv1.EndpointSlice) error {
	left := slices.Clone(have)
	for _, want := range wanted {
		i := slices.IndexFunc(left, func(s *discoveryv1.EndpointSlice) bool {
			return s.AddressType == want.AddressType && equality.Semantic.DeepEqual(s.Ports, want.Ports)
		})
		if i < 0 {
			if err := r.client.Create(ctx, want); err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return fmt.Errorf("create slice: %w", err)
			}
			continue
		}
		old := left[i]
		left = slices.Delete(left, i, i+1)
		if equality.Semantic.DeepEqual(old.Endpoints, want.Endpoints) && maps.Equal(old.Labels, want.Labels) && maps.Equal(old.Annotations, want.Annotations) {
			continue
		}
		changed := old.DeepCopy()
		changed.Endpoints, changed.Labels, changed.Annotations = want.Endpoints, want.Labels, want.Annotations
		if err := r.client.Update(ctx, changed); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update slice: %w", err)
		}
	}
	for _, slice := range left {
		if err := r.client.Delete(ctx, slice.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete slice: %w", err)
		}
	}
	return nil
}

// mirror returns one slice for each family and set of ports.
func mirror(eps *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for i := range eps.Subsets {
		subset := &eps.Subsets[i]
		byFamily := map[discoveryv1.AddressType][]discoveryv1.Endpoint{}
		for ready, addresses := range map[bool][]corev1.EndpointAddress{true: subset.Addresses, false: subset.NotReadyAddresses} {
			for j := range addresses {
				family := discoveryv1.AddressTypeIPv4
				if utilnet.IsIPv6String(addresses[j].IP) {
					family = discoveryv1.AddressTypeIPv6
				}
				if len(byFamily[family]) < maxPerSubset {
					byFamily[family] = append(byFamily[family], endpointOf(&addresses[j], ready))
				}
			}
		}
		for _, family := range slices.Sorted(maps.Keys(byFamily)) {
			list := byFamily[family]
			slices.SortFunc(list, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.Addresses[0], b.Addresses[0]) })
			out = append(out, sliceOf(eps, subset, family, list))
		}
	}
	return out
}

func sliceOf(eps *corev1.Endpoints, subset *corev1.EndpointSubset, family discoveryv1.AddressType, list []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: eps.Namespace, GenerateName: eps.Name + "-", Labels: maps.Clone(eps.Labels), Annotations: maps.Clone(eps.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(eps, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family, Endpoints: list,
	}
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelServiceName, eps.Name)
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelManagedBy, controllerName)
	for _, p := range subset.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(p.Name), Port: new(p.Port), Protocol: new(p.Protocol), AppProtocol: p.AppProtocol})
	}
	return slice
}

func endpointOf(address *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	endpoint := discoveryv1.Endpoint{
		Addresses: []string{address.IP}, Conditions: discoveryv1.EndpointConditions{Ready: new(ready)},
		TargetRef: address.TargetRef, NodeName: address.NodeName,
	}
	if address.Hostname != "" {
		endpoint.Hostname = new(address.Hostname)
	}
	return endpoint
}
