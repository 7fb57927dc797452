package admission

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
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
)

// chain is every plugin in the order in which it runs. Policies and webhooks stand last among the mutating ones, so that they
// see what the built-in plugins made of an object; ResourceQuota comes last of all, since what it charges must not be refused
// afterwards.
func chain() []plugin {
	core, storage, certificates := corev1.Resource, storagev1.Resource, certificatesv1.Resource
	pods := core("pods")
	return []plugin{
		{name: lifecycle.PluginName, register: lifecycle.Register},
		own("LimitRanger", mutates|validates, onWrite, limitRanger, pods, core("persistentvolumeclaims")),
		own("ServiceAccount", mutates|validates, onWrite, serviceAccount, pods),
		own("NodeRestriction", mutates, onAny, nodeRestriction, pods, core("nodes"), core("persistentvolumeclaims"), core("serviceaccounts"),
			coordinationv1.Resource("leases"), storage("csinodes"), resourcev1.Resource("resourceslices"),
			certificates("certificatesigningrequests"), certificates("podcertificaterequests")),
		own("TaintNodesByCondition", mutates, onCreate, taintNodes, core("nodes")),
		onRequest(own("AlwaysPullImages", mutates, onWrite, alwaysPullImages, pods)),
		{name: podSecurityName, register: registerPodSecurity},
		own("Priority", mutates|validates, onWrite, priority, pods, schedulingv1.Resource("priorityclasses")),
		own("DefaultTolerationSeconds", mutates, onWrite, defaultTolerationSeconds, pods),
		onRequest(own("ExtendedResourceToleration", mutates, onWrite, extendedResourceToleration, pods)),
		own("DefaultStorageClass", mutates, onCreate, defaultStorageClass, core("persistentvolumeclaims")),
		own("StorageObjectInUseProtection", mutates, onCreate, storageProtection,
			core("persistentvolumeclaims"), core("persistentvolumes"), storage("volumeattributesclasses")),
		own("PersistentVolumeClaimResize", validates, onUpdate, claimResize, core("persistentvolumeclaims")),
		own("RuntimeClass", mutates|validates, onCreate, runtimeClass, pods),
		own("CertificateApproval", validates, onUpdate, certificateApproval, certificates("certificatesigningrequests")),
		own("CertificateSigning", validates, onUpdate, certificateSigning, certificates("certificatesigningrequests")),
		own("ClusterTrustBundleAttest", validates, onWrite, trustBundleAttest, certificates("clustertrustbundles")),
		own("CertificateSubjectRestriction", validates, onCreate, subjectRestriction, certificates("certificatesigningrequests")),
		own("DefaultIngressClass", mutates, onCreate, defaultIngressClass, networkingv1.Resource("ingresses")),
		onRequest(own("DenyServiceExternalIPs", validates, onWrite, denyExternalIPs, core("services"))),
		own("PodTopologyLabels", mutates, onCreate, podTopologyLabels, pods, core("bindings")),
		{name: mutatingpolicy.PluginName, register: mutatingpolicy.Register},
		{name: mutatingwebhook.PluginName, register: mutatingwebhook.Register},
		{name: validatingpolicy.PluginName, register: validatingpolicy.Register},
		{name: validatingwebhook.PluginName, register: validatingwebhook.Register},
		{name: resourcequota.PluginName, register: resourcequota.Register},
	}
}

// DefaultExcluded are the resources that policies and webhooks do not see.
func DefaultExcluded() []schema.GroupResource {
	excluded := []schema.GroupResource{
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
		{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	}
	for _, name := range []string{
		"validatingwebhookconfigurations", "mutatingwebhookconfigurations",
		"validatingadmissionpolicies", "validatingadmissionpolicybindings",
		"mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
	} {
		excluded = append(excluded, admissionregistrationv1.Resource(name))
	}
	return excluded
}
