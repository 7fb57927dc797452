package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	kubernetesService = "kubernetes"
	// defaultCIDRs is the name of the ServiceCIDR that the server's flags describe.
	defaultCIDRs = "kubernetes"
	// leaseTTL is how long a server that has died keeps its place among the endpoints, renewInterval how often it renews.
	leaseTTL      = 15 * time.Second
	renewInterval = 10 * time.Second
	// LeasePrefix is upstream's place for the leases of API servers, below the prefix of all of the store.
	LeasePrefix = "/masterleases/"
)

// Kubernetes keeps the service default/kubernetes: the way to the API from inside the cluster.
type Kubernetes struct {
	Client kubernetes.Interface
	// Leases stores the addresses of all API servers, each as an Endpoints object with a time to live; nil keeps no endpoints.
	Leases storage.Interface
	// ServiceIPs are the service's own addresses, the first of each service network.
	ServiceIPs []net.IP
	NodePort   int
	// Address and Port are where this server is reached.
	Address net.IP
	Port    int
	CIDRs   []*net.IPNet
}

// Run brings the service and its endpoints into being and then keeps them, until ctx ends. It returns after the first success.
func (k *Kubernetes) Run(ctx context.Context) error {
	if err := k.sync(ctx); err != nil {
		return err
	}
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := k.sync(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not reconcile the service kubernetes")
		}
	}, renewInterval, 0, true)
	return nil
}

func (k *Kubernetes) sync(ctx context.Context) error {
	if err := k.ensureCIDRs(ctx); err != nil {
		return err
	}
	if err := k.ensureService(ctx); err != nil {
		return err
	}
	if k.Leases == nil {
		return nil
	}
	if err := k.renew(ctx); err != nil {
		return err
	}
	return k.syncEndpoints(ctx)
}

// Stop takes this server out of the endpoints, so that clients go elsewhere before it stops serving.
func (k *Kubernetes) Stop(ctx context.Context) error {
	if k.Leases == nil {
		return nil
	}
	err := k.Leases.Delete(ctx, k.leaseKey(), &corev1.Endpoints{}, nil, rest.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if err != nil && !storage.IsNotFound(err) {
		return fmt.Errorf("delete the server's lease: %w", err)
	}
	addresses, err := k.serverAddresses(ctx)
	if err != nil || len(addresses) == 0 {
		return err // the last one leaves its address: an empty service would only change the error that clients see
	}
	return k.syncEndpoints(ctx)
}

func (k *Kubernetes) leaseKey() string { return path.Join(LeasePrefix, k.Address.String()) }

// renew writes the lease. The generation changes each time, since an unchanged object is not written and would expire.
func (k *Kubernetes) renew(ctx context.Context) error {
	ttl := uint64(leaseTTL / time.Second)
	err := k.Leases.GuaranteedUpdate(ctx, k.leaseKey(), &corev1.Endpoints{}, true, nil,
		func(input runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			lease := input.(*corev1.Endpoints)
			lease.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: k.Address.String()}}}}
			lease.Generation++
			return lease, &ttl, nil
		}, nil)
	if err != nil {
		return fmt.Errorf("renew the server's lease: %w", err)
	}
	return nil
}

// serverAddresses lists the addresses of all living API servers, sorted.
func (k *Kubernetes) serverAddresses(ctx context.Context) ([]string, error) {
	leases := &corev1.EndpointsList{}
	options := storage.ListOptions{Predicate: storage.Everything, Recursive: true}
	if err := k.Leases.GetList(ctx, LeasePrefix, options, leases); err != nil {
		return nil, fmt.Errorf("list the servers' leases: %w", err)
	}
	var addresses []string
	for _, lease := range leases.Items {
		for _, subset := range lease.Subsets {
			for _, address := range subset.Addresses {
				addresses = append(addresses, address.IP)
			}
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

func (k *Kubernetes) ensureService(ctx context.Context) error {
	services := k.Client.CoreV1().Services(metav1.NamespaceDefault)
	found, err := services.Get(ctx, kubernetesService, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case apierrors.IsNotFound(err):
		if _, err := services.Create(ctx, k.service(), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create the service kubernetes: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("get the service kubernetes: %w", err)
	}
	want := k.service()
	if samePorts(found.Spec.Ports, want.Spec.Ports) && found.Spec.Type == want.Spec.Type {
		return nil
	}
	found.Spec.Ports, found.Spec.Type = want.Spec.Ports, want.Spec.Type
	if _, err := services.Update(ctx, found, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("update the service kubernetes: %w", err)
	}
	return nil
}

func samePorts(a, b []corev1.ServicePort) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.ServicePort) bool {
		return x.Name == y.Name && x.Port == y.Port && x.TargetPort == y.TargetPort && x.Protocol == y.Protocol &&
			(y.NodePort == 0 || x.NodePort == y.NodePort)
	})
}

func (k *Kubernetes) service() *corev1.Service {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
		},
		Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{
				Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(k.Port), NodePort: int32(k.NodePort),
			}},
			ClusterIP:       k.ServiceIPs[0].String(),
			SessionAffinity: corev1.ServiceAffinityNone,
			Type:            corev1.ServiceTypeClusterIP,
			IPFamilyPolicy:  new(corev1.IPFamilyPolicySingleStack),
			IPFamilies:      []corev1.IPFamily{familyOf(k.ServiceIPs[0])},
		},
	}
	if k.NodePort > 0 {
		service.Spec.Type = corev1.ServiceTypeNodePort
	}
	return service
}

// syncEndpoints writes the addresses of all servers into the service's EndpointSlice and, for old clients, its Endpoints.
func (k *Kubernetes) syncEndpoints(ctx context.Context) error {
	addresses, err := k.serverAddresses(ctx)
	if err != nil {
		return err
	}
	// Both are tried: one that cannot be written must not keep the other from being right.
	return errors.Join(k.syncEndpointSlice(ctx, addresses), k.syncOldEndpoints(ctx, addresses))
}

func (k *Kubernetes) syncEndpointSlice(ctx context.Context, addresses []string) error {
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesService},
		},
		AddressType: discoveryv1.AddressType(familyOf(k.Address)),
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(k.Port)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for _, address := range addresses {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	slicesClient := k.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	found, err := slicesClient.Get(ctx, kubernetesService, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slicesClient.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && found.AddressType != want.AddressType: // it is immutable
		err = slicesClient.Delete(ctx, kubernetesService, metav1.DeleteOptions{})
	case err == nil && !sameEndpoints(found, want):
		found.Endpoints, found.Ports, found.Labels = want.Endpoints, want.Ports, want.Labels
		_, err = slicesClient.Update(ctx, found, metav1.UpdateOptions{})
	}
	return lostRace(err, "write the endpoint slice of kubernetes")
}

func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	key := func(e discoveryv1.Endpoint) string { return e.Addresses[0] }
	sorted := func(in []discoveryv1.Endpoint) []discoveryv1.Endpoint {
		out := slices.Clone(in)
		slices.SortFunc(out, func(x, y discoveryv1.Endpoint) int { return cmp.Compare(key(x), key(y)) })
		return out
	}
	return apiequality.Semantic.DeepEqual(sorted(a.Endpoints), sorted(b.Endpoints)) &&
		apiequality.Semantic.DeepEqual(a.Ports, b.Ports) && a.Labels[discoveryv1.LabelServiceName] == b.Labels[discoveryv1.LabelServiceName]
}

func (k *Kubernetes) syncOldEndpoints(ctx context.Context, addresses []string) error {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Name: kubernetesService, Namespace: metav1.NamespaceDefault,
		Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}, // the slice is ours already
	}}
	if len(addresses) > 0 {
		subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: int32(k.Port), Protocol: corev1.ProtocolTCP}}}
		for _, address := range addresses {
			subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address})
		}
		want.Subsets = []corev1.EndpointSubset{subset}
	}
	client := k.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	found, err := client.Get(ctx, kubernetesService, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && (!apiequality.Semantic.DeepEqual(found.Subsets, want.Subsets) || found.Labels[discoveryv1.LabelSkipMirror] != "true"):
		found.Subsets, found.Labels = want.Subsets, want.Labels
		_, err = client.Update(ctx, found, metav1.UpdateOptions{})
	}
	return lostRace(err, "write the endpoints of kubernetes")
}

// lostRace forgives what another API server that does the same brings about; the next round looks again.
func lostRace(err error, doing string) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// ensureCIDRs keeps the ServiceCIDR of the networks that the flags name, and marks it ready.
func (k *Kubernetes) ensureCIDRs(ctx context.Context) error {
	client := k.Client.NetworkingV1().ServiceCIDRs()
	cidrs := cidrStrings(k.CIDRs)
	found, err := client.Get(ctx, defaultCIDRs, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		want := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: defaultCIDRs}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
		found, err = client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("keep the default ServiceCIDR: %w", err)
	}
	found = found.DeepCopy()
	if len(cidrs) == 2 && slices.Equal(found.Spec.CIDRs, cidrs[:1]) {
		found.Spec.CIDRs = cidrs
		_, err = client.Update(ctx, found, metav1.UpdateOptions{})
		return lostRace(err, "make the default ServiceCIDR dual-stack")
	}
	if len(found.Status.Conditions) > 0 || found.DeletionTimestamp != nil || !slices.Equal(found.Spec.CIDRs, cidrs) {
		return nil // what stands there stays; the repair loop tells of a difference
	}
	found.Status.Conditions = []metav1.Condition{{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Message: "Kubernetes default Service CIDR is ready",
	}}
	_, err = client.UpdateStatus(ctx, found, metav1.UpdateOptions{})
	return lostRace(err, "mark the default ServiceCIDR ready")
}
