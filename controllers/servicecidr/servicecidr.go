// Package servicecidr keeps the ranges of service addresses: it marks them ready, and holds those that are being deleted until no
// address depends on them.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

const finalizer = "networking.k8s.io/service-cidr-finalizer"

type reconciler struct {
	client    client.Client
	ranges    lister.Of[*networkingv1.ServiceCIDR]
	addresses lister.Of[*networkingv1.IPAddress]
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	ranges, err := env.Lister(e, &networkingv1.ServiceCIDR{})
	if err != nil {
		return err
	}
	addresses, err := env.Lister(e, &networkingv1.IPAddress{})
	if err != nil {
		return err
	}
	r := &reconciler{client: e.Client, ranges: ranges, addresses: addresses}
	terminating := func() []types.NamespacedName {
		var keys []types.NamespacedName
		for _, other := range ranges.All() {
			if other.DeletionTimestamp != nil {
				keys = append(keys, types.NamespacedName{Name: other.Name})
			}
		}
		return keys
	}
	return e.Controller("service-cidr", workers, r.reconcile,
		env.Mapped(&networkingv1.ServiceCIDR{}, func(s *networkingv1.ServiceCIDR) []types.NamespacedName {
			return append(terminating(), types.NamespacedName{Name: s.Name})
		}),
		env.On(&networkingv1.IPAddress{}, env.Changes[*networkingv1.IPAddress]{Deleted: func(_ *networkingv1.IPAddress, q env.Queue) {
			env.Add(q, terminating()...)
		}}))
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, ok := r.ranges.Find("", req.Name)
	if !ok {
		return ctrl.Result{}, nil
	}
	s := cached.DeepCopy()
	held := slices.Contains(s.Finalizers, finalizer)
	switch {
	case s.DeletionTimestamp == nil && !held:
		s.Finalizers = append(s.Finalizers, finalizer)
		if err := r.client.Update(ctx, s); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		return ctrl.Result{}, r.mark(ctx, s, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	case s.DeletionTimestamp == nil:
		return ctrl.Result{}, r.mark(ctx, s, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	case !held:
		return ctrl.Result{}, nil
	}
	if r.needed(s) {
		return ctrl.Result{}, r.mark(ctx, s, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == finalizer })
	return ctrl.Result{}, client.IgnoreNotFound(r.client.Update(ctx, s))
}

func (r *reconciler) mark(ctx context.Context, s *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	before := s.Status.DeepCopy()
	apimeta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message,
	})
	if old := apimeta.FindStatusCondition(before.Conditions, networkingv1.ServiceCIDRConditionReady); old != nil && old.Status == status || equality.Semantic.DeepEqual(before, &s.Status) {
		return nil
	}
	return client.IgnoreNotFound(r.client.Status().Update(ctx, s))
}

// needed reports whether an address lies in the range and in no other one that stays.
func (r *reconciler) needed(s *networkingv1.ServiceCIDR) bool {
	covers := func(s *networkingv1.ServiceCIDR, ip netip.Addr) bool {
		return slices.ContainsFunc(s.Spec.CIDRs, func(text string) bool {
			prefix, err := netip.ParsePrefix(text)
			return err == nil && prefix.Contains(ip)
		})
	}
	for _, address := range r.addresses.All() {
		ip, err := netip.ParseAddr(address.Name)
		if err != nil || !covers(s, ip) {
			continue
		}
		if !slices.ContainsFunc(r.ranges.All(), func(other *networkingv1.ServiceCIDR) bool {
			return other.Name != s.Name && other.DeletionTimestamp == nil && covers(other, ip)
		}) {
			return true
		}
	}
	return false
}
