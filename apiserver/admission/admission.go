// Package admission is the chain that every write passes after it is authorized: plugins that change objects, then plugins that
// judge them. The list in chain.go is the order; to change the order is to move a
// line.
package admission

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	webhookinitializer "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/webhook"

	"keelson.dev/internal/quota"
)

// NewOptions returns the admission options of the server, with the flags --enable-admission-plugins,
// --disable-admission-plugins and --admission-control-config-file. ApplyTo builds the chain, and reads seconds then.
func NewOptions(seconds *TolerationSeconds) *options.AdmissionOptions {
	o := &options.AdmissionOptions{
		Plugins:           admission.NewPlugins(),
		Decorators:        admission.Decorators{admission.DecoratorFunc(admissionmetrics.WithControllerMetrics)},
		DefaultOffPlugins: sets.New[string](),
	}
	for _, p := range chain(seconds) {
		p.register(o.Plugins)
		o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, p.name)
		if p.off {
			o.DefaultOffPlugins.Insert(p.name)
		}
	}
	return o
}

// Only enables the named plugins and no others; the order stays that of the chain. No names change nothing. It is what the
// deprecated flag --admission-control does.
func Only(o *options.AdmissionOptions, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if o.EnablePlugins != nil || o.DisablePlugins != nil {
		return errors.New("admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive")
	}
	for _, name := range names {
		if !slices.Contains(o.RecommendedPluginOrder, name) {
			return fmt.Errorf("admission-control plugin %q is unknown", name)
		}
	}
	o.EnablePlugins = names
	o.DisablePlugins = slices.DeleteFunc(slices.Clone(o.RecommendedPluginOrder), func(name string) bool { return slices.Contains(names, name) })
	return nil
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
	// Devices are counted by quotas under the names of extended resources.
	Devices quota.Devices
}

// Initializers are passed to ApplyTo.
func Initializers(cfg InitializerConfig) ([]admission.PluginInitializer, error) {
	loaders, err := manifestLoaders()
	return []admission.PluginInitializer{
		webhookinitializer.NewPluginInitializer(cfg.AuthInfo, cfg.ServiceResolver),
		wants{cfg: cfg, quota: quota.ForAdmission(cfg.Devices), loaders: loaders},
	}, err
}

type wants struct {
	cfg     InitializerConfig
	quota   quotav1.Configuration
	loaders *initializer.ManifestLoaders
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
	if p, ok := p.(initializer.WantsManifestLoaders); ok {
		p.SetManifestLoaders(w.loaders)
	}
	if p, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
		p.SetExcludedAdmissionResources(w.cfg.Excluded)
	}
}
