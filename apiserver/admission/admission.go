// Package admission is the chain that every write passes after it is authorized: plugins that change objects, then plugins that
// judge them. The list below is the order; to change the order is to move a line.
package admission

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinitializer "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/webhook"

	"keelson.dev/internal/quota"
)

// plugin is one line of the chain.
type plugin struct {
	name     string
	register func(*admission.Plugins)
	off      bool // only with --enable-admission-plugins
}

// chain is every plugin in the order in which it runs. Policies and webhooks stand last among the mutating ones, so that they
// see what the built-in plugins made of an object; ResourceQuota comes last of all, since what it charges must not be refused
// afterwards.
func chain() []plugin {
	return []plugin{
		{name: lifecycle.PluginName, register: lifecycle.Register},
		{name: mutatingpolicy.PluginName, register: mutatingpolicy.Register},
		{name: mutatingwebhook.PluginName, register: mutatingwebhook.Register},
		{name: validatingpolicy.PluginName, register: validatingpolicy.Register},
		{name: validatingwebhook.PluginName, register: validatingwebhook.Register},
		{name: resourcequota.PluginName, register: resourcequota.Register},
	}
}

// NewOptions returns the admission options of the server, with the flags --enable-admission-plugins,
// --disable-admission-plugins and --admission-control-config-file. ApplyTo builds the chain.
func NewOptions() *options.AdmissionOptions {
	o := &options.AdmissionOptions{
		Plugins:           admission.NewPlugins(),
		Decorators:        admission.Decorators{admission.DecoratorFunc(admissionmetrics.WithControllerMetrics)},
		DefaultOffPlugins: sets.New[string](),
	}
	for _, p := range chain() {
		p.register(o.Plugins)
		o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, p.name)
		if p.off {
			o.DefaultOffPlugins.Insert(p.name)
		}
	}
	return o
}

// InitializerConfig is what plugins need beyond clients and informers, which ApplyTo gives them.
type InitializerConfig struct {
	// ServiceResolver and AuthInfo let webhooks be called by service reference and with credentials.
	ServiceResolver webhook.ServiceResolver
	AuthInfo        webhook.AuthenticationInfoResolverWrapper
	// Schemas types the CEL expressions of admission policies.
	Schemas resolver.SchemaResolver
	// Excluded resources are not seen by policies and webhooks, since a bad one could lock out its own repair.
	Excluded []schema.GroupResource
}

// DefaultExcluded are the resources that policies and webhooks do not see.
func DefaultExcluded() []schema.GroupResource {
	return []schema.GroupResource{
		{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
		{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies"},
		{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicybindings"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicybindings"},
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
		{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	}
}

// Initializers are passed to ApplyTo.
func Initializers(cfg InitializerConfig) []admission.PluginInitializer {
	return []admission.PluginInitializer{
		webhookinitializer.NewPluginInitializer(cfg.AuthInfo, cfg.ServiceResolver),
		wants{cfg: cfg, quota: quota.ForAdmission()},
	}
}

type wants struct {
	cfg   InitializerConfig
	quota quotav1.Configuration
}

// Initialize hands a plugin what it asks for. The quota configuration comes after the drained notification, which ApplyTo's own
// initializer has given by then.
func (w wants) Initialize(p admission.Interface) {
	if p, ok := p.(initializer.WantsQuotaConfiguration); ok {
		p.SetQuotaConfiguration(w.quota)
	}
	if p, ok := p.(initializer.WantsSchemaResolver); ok {
		p.SetSchemaResolver(w.cfg.Schemas)
	}
	if p, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
		p.SetExcludedAdmissionResources(w.cfg.Excluded)
	}
}
