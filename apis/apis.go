// Package apis is the table of what a Keelson API server serves: every group, every kind, and the scheme that knows them.
//
// The Go types of k8s.io/api are the hub: they stand in the scheme under their version and under __internal, so the generic API
// server converts nothing. What is particular to a kind stands in one file below the folder of its group.
package apis

import (
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/apis/admissionregistration"
	"keelson.dev/apis/apps"
	"keelson.dev/apis/autoscaling"
	"keelson.dev/apis/batch"
	"keelson.dev/apis/certificates"
	"keelson.dev/apis/coordination"
	"keelson.dev/apis/core"
	"keelson.dev/apis/discovery"
	"keelson.dev/apis/dra"
	"keelson.dev/apis/flowcontrol"
	"keelson.dev/apis/networking"
	"keelson.dev/apis/node"
	"keelson.dev/apis/policy"
	"keelson.dev/apis/rbac"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/scheduling"
	"keelson.dev/apis/storage"
	"keelson.dev/apis/storagemigration"
)

// Group is one API group.
type Group struct {
	// Priority is the group's rank in discovery: the greater, the earlier. Upstream's numbers; none for a group without APIService.
	Priority int32
	// Versions are the served versions, the preferred and stored one first.
	Versions []Version
	// Resources lists the stored kinds; nil for groups that only answer reviews.
	Resources func() []*resource.Resource
	// Register adds conversions and field labels that do not follow from the rows; nil for most groups.
	Register func(*runtime.Scheme) error
}

// Version is a version of a group and what adds its types to a scheme.
type Version struct {
	schema.GroupVersion
	AddToScheme func(*runtime.Scheme) error
}

// Groups lists what is served, in the order in which discovery lists it.
func Groups() []Group {
	return []Group{
		{Priority: 18000, Versions: []Version{{corev1.SchemeGroupVersion, corev1.AddToScheme}}, Resources: core.Resources},
		{Priority: 17800, Versions: []Version{{appsv1.SchemeGroupVersion, appsv1.AddToScheme}}, Resources: apps.Resources},
		{Priority: 17750, Versions: []Version{{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme}}, Register: core.RegisterEvents},
		{Priority: 17700, Versions: []Version{{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme}}},
		{Priority: 17600, Versions: []Version{{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme}}},
		{
			Priority: 17500, Versions: []Version{
				{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme},
				{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme},
			},
			Resources: autoscaling.Resources, Register: autoscaling.Register,
		},
		{Priority: 17400, Versions: []Version{{batchv1.SchemeGroupVersion, batchv1.AddToScheme}}, Resources: batch.Resources},
		{Priority: 17300, Versions: []Version{{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme}}, Resources: certificates.Resources},
		{Priority: 17200, Versions: []Version{{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme}}, Resources: networking.Resources},
		{Priority: 17100, Versions: []Version{{policyv1.SchemeGroupVersion, policyv1.AddToScheme}}, Resources: policy.Resources},
		{Priority: 17000, Versions: []Version{{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme}}, Resources: rbac.Resources},
		{Priority: 16800, Versions: []Version{{storagev1.SchemeGroupVersion, storagev1.AddToScheme}}, Resources: storage.Resources},
		{
			Priority: 16700, Versions: []Version{{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme}},
			Resources: admissionregistration.Resources,
		},
		{Priority: 16600, Versions: []Version{{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme}}, Resources: scheduling.Resources},
		{Priority: 16500, Versions: []Version{{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme}}, Resources: coordination.Resources},
		{Priority: 16300, Versions: []Version{{nodev1.SchemeGroupVersion, nodev1.AddToScheme}}, Resources: node.Resources},
		{Priority: 16200, Versions: []Version{{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme}}, Resources: discovery.Resources},
		{Priority: 16200, Versions: []Version{{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme}}, Resources: dra.Resources},
		{Priority: 16100, Versions: []Version{{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme}}, Resources: flowcontrol.Resources},
		{
			Priority: 15800, Versions: []Version{{storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme}},
			Resources: storagemigration.Resources,
		},
		{Versions: []Version{{apidiscoveryv2.SchemeGroupVersion, apidiscoveryv2.AddToScheme}}},
	}
}

// All lists every stored kind.
func All() []*resource.Resource {
	var all []*resource.Resource
	for _, group := range Groups() {
		if group.Resources != nil {
			all = append(all, group.Resources()...)
		}
	}
	return all
}

// ServedVersions lists every group version under which r is served, the stored one first. A version may be of another group:
// events are one stored kind in two groups.
func ServedVersions(r *resource.Resource) []schema.GroupVersion {
	return slices.Concat([]schema.GroupVersion{r.GroupVersion}, r.Served)
}

// must panics on an error of registration: it can only come from a mistake in the table, and every test would meet it.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("build scheme: %v", err))
	}
}
