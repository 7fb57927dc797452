package scheduler

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/config"
	configv1alpha1 "k8s.io/component-base/config/v1alpha1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/leadership"
	"keelson.dev/scheduler/plugins"
	"keelson.dev/scheduler/profile"
)

// profileSpec is a profile as configured.
type profileSpec struct {
	name       string
	plugins    []profile.Plugin
	percentage int32
}

// loadConfig reads a KubeSchedulerConfiguration; an empty path is an empty configuration.
func loadConfig(path string) (*configv1.KubeSchedulerConfiguration, error) {
	conf := &configv1.KubeSchedulerConfiguration{}
	if path == "" {
		return conf, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read scheduler configuration: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := configv1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register scheduler configuration: %w", err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	if _, _, err := decoder.Decode(data, nil, conf); err != nil {
		return nil, fmt.Errorf("parse scheduler configuration %s: %w", path, err)
	}
	if err := conf.DecodeNestedObjects(decoder); err != nil {
		return nil, fmt.Errorf("parse scheduler configuration %s: %w", path, err)
	}
	return conf, nil
}

// leaderConfig completes what flags say by what a configuration says: where a flag stands at its default, the configuration decides.
func leaderConfig(flags config.LeaderElectionConfiguration, file *configv1alpha1.LeaderElectionConfiguration) config.LeaderElectionConfiguration {
	defaults := leadership.Defaults(LeaseName)
	if flags.ResourceName == "" { // no flags
		flags = defaults
		flags.LeaderElect = ptr.Deref(file.LeaderElect, false)
	}
	flags.LeaderElect = flags.LeaderElect && ptr.Deref(file.LeaderElect, true)
	decide(&flags.LeaseDuration, defaults.LeaseDuration, file.LeaseDuration)
	decide(&flags.RenewDeadline, defaults.RenewDeadline, file.RenewDeadline)
	decide(&flags.RetryPeriod, defaults.RetryPeriod, file.RetryPeriod)
	decide(&flags.ResourceName, defaults.ResourceName, file.ResourceName)
	decide(&flags.ResourceNamespace, defaults.ResourceNamespace, file.ResourceNamespace)
	return flags
}

func decide[T comparable](flag *T, standard, file T) {
	if *flag == standard {
		*flag = cmp.Or(file, *flag)
	}
}

// connect applies what a configuration says about the connection. Without a rate in it, the API server's priority and fairness
// decides who waits.
func connect(to *rest.Config, conf *configv1alpha1.ClientConnectionConfiguration) {
	to.ContentType = cmp.Or(conf.ContentType, to.ContentType)
	to.AcceptContentTypes = cmp.Or(conf.AcceptContentTypes, to.AcceptContentTypes)
	if conf.QPS > 0 {
		to.QPS, to.Burst, to.RateLimiter = conf.QPS, int(conf.Burst), nil
	}
}

// Kubeconfig returns the path that a KubeSchedulerConfiguration file names; empty if it names none.
func Kubeconfig(configFile string) (string, error) {
	conf, err := loadConfig(configFile)
	if err != nil {
		return "", err
	}
	return conf.ClientConnection.Kubeconfig, nil
}

// profileSpecs resolves the profiles: the default plugins, with what each profile enables, disables and configures.
func profileSpecs(conf *configv1.KubeSchedulerConfiguration, extra []profile.Plugin) ([]profileSpec, error) {
	profiles := conf.Profiles
	if len(profiles) == 0 {
		profiles = []configv1.KubeSchedulerProfile{{}}
	}
	var out []profileSpec
	for _, p := range profiles {
		spec := profileSpec{name: corev1.DefaultSchedulerName}
		if p.SchedulerName != nil {
			spec.name = *p.SchedulerName
		}
		if slices.ContainsFunc(out, func(o profileSpec) bool { return o.name == spec.name }) {
			return nil, fmt.Errorf("two profiles have the scheduler name %q", spec.name)
		}
		if p.PercentageOfNodesToScore != nil {
			spec.percentage = *p.PercentageOfNodesToScore
		} else if conf.PercentageOfNodesToScore != nil {
			spec.percentage = *conf.PercentageOfNodesToScore
		}
		list, err := resolvePlugins(p.Plugins, extra)
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", spec.name, err)
		}
		for _, args := range p.PluginConfig {
			i := slices.IndexFunc(list, func(pl profile.Plugin) bool { return pl.Name == args.Name })
			if i < 0 {
				continue // arguments of a plugin that is disabled
			}
			list[i].Args = args.Args.Object
			if list[i].Args == nil {
				list[i].Args = &runtime.Unknown{Raw: args.Args.Raw, ContentType: runtime.ContentTypeJSON}
			}
		}
		spec.plugins = list
		out = append(out, spec)
	}
	return out, nil
}

// resolvePlugins applies a profile's plugin sets to the default list.
func resolvePlugins(sets *configv1.Plugins, extra []profile.Plugin) ([]profile.Plugin, error) {
	known := append(plugins.Default(), extra...)
	list := plugins.Default()
	if sets == nil {
		return list, nil
	}
	find := func(name string) int {
		return slices.IndexFunc(list, func(p profile.Plugin) bool { return p.Name == name })
	}
	enable := func(p configv1.Plugin, only []profile.Point) error {
		i := find(p.Name)
		if i < 0 {
			k := slices.IndexFunc(known, func(kp profile.Plugin) bool { return kp.Name == p.Name })
			if k < 0 {
				return fmt.Errorf("plugin %q is unknown", p.Name)
			}
			list = append(list, known[k])
			i = len(list) - 1
			list[i].Only = only
		} else if len(list[i].Only) > 0 {
			list[i].Only = append(list[i].Only, only...)
		}
		list[i].Never = slices.DeleteFunc(slices.Clone(list[i].Never), func(at profile.Point) bool { return slices.Contains(only, at) })
		if p.Weight != nil {
			list[i].Weight = int64(*p.Weight)
		}
		return nil
	}
	for _, p := range sets.MultiPoint.Disabled {
		list = slices.DeleteFunc(list, func(l profile.Plugin) bool { return p.Name == "*" || p.Name == l.Name })
	}
	for _, p := range sets.MultiPoint.Enabled {
		if err := enable(p, nil); err != nil {
			return nil, err
		}
	}
	for _, at := range points(sets) {
		for _, p := range at.set.Disabled {
			for i := range list {
				if p.Name == "*" || p.Name == list[i].Name {
					list[i].Never = append(list[i].Never, at.point)
				}
			}
		}
		for _, p := range at.set.Enabled {
			if err := enable(p, []profile.Point{at.point}); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

type pointSet struct {
	point profile.Point
	set   configv1.PluginSet
}

func points(p *configv1.Plugins) []pointSet {
	return []pointSet{
		{profile.PreEnqueue, p.PreEnqueue},
		{profile.QueueSort, p.QueueSort},
		{profile.PreFilter, p.PreFilter},
		{profile.Filter, p.Filter},
		{profile.PostFilter, p.PostFilter},
		{profile.PreScore, p.PreScore},
		{profile.Score, p.Score},
		{profile.Reserve, p.Reserve},
		{profile.Permit, p.Permit},
		{profile.PreBind, p.PreBind},
		{profile.Bind, p.Bind},
		{profile.PostBind, p.PostBind},
	}
}
