package admission

import (
	"context"
	"errors"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
)

// plugin is one line of the chain.
type plugin struct {
	name     string
	register func(*admission.Plugins)
	off      bool // only with --enable-admission-plugins
}

// onRequest makes a line one that runs only with --enable-admission-plugins.
func onRequest(p plugin) plugin {
	p.off = true
	return p
}

var (
	onCreate = []admission.Operation{admission.Create}
	onUpdate = []admission.Operation{admission.Update}
	onWrite  = []admission.Operation{admission.Create, admission.Update}
	onAny    = []admission.Operation{admission.Create, admission.Update, admission.Delete}
	onAll    = []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect}
)

// chain is every plugin in the order in which it runs, which is upstream's. Policies and webhooks stand last among the mutating
// ones, so that they see what the built-in plugins made of an object; ResourceQuota comes last of all, since what it charges must
// not be refused afterwards.
func chain(seconds *TolerationSeconds) []plugin {
	core, storage, certificates := corev1.Resource, storagev1.Resource, certificatesv1.Resource
	pods, claims, requests := core("pods"), core("persistentvolumeclaims"), certificates("certificatesigningrequests")
	return []plugin{
		onRequest(own("AlwaysAdmit", mutates|validates, onAll, func(dependencies) hooks { return hooks{} })),
		onRequest(own("NamespaceAutoProvision", mutates, onCreate, namespaceAutoProvision)),
		{name: lifecycle.PluginName, register: lifecycle.Register},
		onRequest(own("NamespaceExists", validates, onAny, namespaceExists)),
		onRequest(own("LimitPodHardAntiAffinityTopology", validates, onWrite, limitAntiAffinity, pods)),
		own("LimitRanger", mutates|validates, onWrite, limitRanger, pods, claims),
		own("ServiceAccount", mutates|validates, onWrite, serviceAccount, pods),
		own("NodeRestriction", mutates, onAny, nodeRestriction, pods, core("nodes"), claims, core("serviceaccounts"),
			coordinationv1.Resource("leases"), storage("csinodes"), resourcev1.Resource("resourceslices"),
			requests, certificates("podcertificaterequests")),
		own("TaintNodesByCondition", mutates, onCreate, taintNodes, core("nodes")),
		onRequest(own("AlwaysPullImages", mutates|validates, onWrite, alwaysPullImages, pods)),
		onRequest(configured("ImagePolicyWebhook", validates, onWrite, loadImagePolicy, pods)),
		{name: podSecurityName, register: registerPodSecurity},
		onRequest(configured("PodNodeSelector", mutates|validates, onCreate, loadPodNodeSelector, pods)),
		own("Priority", mutates|validates, onWrite, priority, pods, schedulingv1.Resource("priorityclasses")),
		own("DefaultTolerationSeconds", mutates, onWrite, seconds.defaultTolerationSeconds, pods),
		onRequest(configured("PodTolerationRestriction", mutates|validates, onWrite, loadPodTolerationRestriction, pods)),
		onRequest(configured("EventRateLimit", validates, onWrite, loadEventRateLimit, core("events"))),
		onRequest(own("ExtendedResourceToleration", mutates, onWrite, extendedResourceToleration, pods)),
		own("DefaultStorageClass", mutates, onCreate, defaultStorageClass, claims),
		own("StorageObjectInUseProtection", mutates, onCreate, storageProtection, claims, core("persistentvolumes"), storage("volumeattributesclasses")),
		// PodGroups are not served, as upstream without its gate GenericWorkload; the name is there for manifests that mention it.
		own("PodGroupProtection", mutates, onCreate, func(dependencies) hooks { return hooks{} }, schedulingv1.Resource("podgroups")),
		onRequest(own("OwnerReferencesPermissionEnforcement", validates, onWrite, ownerPermissions)),
		own("PersistentVolumeClaimResize", validates, onUpdate, claimResize, claims),
		own("RuntimeClass", mutates|validates, onCreate, runtimeClass, pods),
		own("CertificateApproval", validates, onUpdate, certificateApproval, requests),
		own("CertificateSigning", validates, onUpdate, certificateSigning, requests),
		own("ClusterTrustBundleAttest", validates, onWrite, trustBundleAttest, certificates("clustertrustbundles")),
		own("CertificateSubjectRestriction", validates, onCreate, subjectRestriction, requests),
		own("DefaultIngressClass", mutates, onCreate, defaultIngressClass, networkingv1.Resource("ingresses")),
		onRequest(own("DenyServiceExternalIPs", validates, onWrite, denyExternalIPs, core("services"))),
		own("PodTopologyLabels", mutates, onCreate, podTopologyLabels, pods, core("bindings")),
		own("NodeDeclaredFeatureValidator", validates, onUpdate, nodeFeatures, pods),
		own("PodResizeValidator", validates, onUpdate, podResize, pods),
		{name: mutatingpolicy.PluginName, register: mutatingpolicy.Register},
		{name: mutatingwebhook.PluginName, register: mutatingwebhook.Register},
		{name: validatingpolicy.PluginName, register: validatingpolicy.Register},
		{name: validatingwebhook.PluginName, register: validatingwebhook.Register},
		{name: resourcequota.PluginName, register: resourcequota.Register},
		onRequest(own("AlwaysDeny", mutates|validates, onAll, alwaysDeny)),
	}
}

// alwaysDeny refuses everything.
func alwaysDeny(dependencies) hooks {
	deny := func(_ context.Context, a admission.Attributes) error {
		return admission.NewForbidden(a, errors.New("admission control is denying all modifications"))
	}
	return hooks{admit: deny, validate: deny}
}

// DefaultExcluded are the resources that policies and webhooks do not see, since a bad one could lock everybody out. Of their own
// kinds the library leaves out what would hinder their repair.
func DefaultExcluded() []schema.GroupResource {
	return []schema.GroupResource{
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
		{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	}
}
