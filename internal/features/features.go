// Package features holds Kubernetes' feature gates: which of them this release knows, and which are open in this process.
//
// gates.txt is upstream's list, printed by `go run ./gates` in conformance: a line is a gate with its stages, each
// version[/least version of all servers]:stage=default[!], the last where it cannot be changed, and the gates that it needs.
package features

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientfeatures "k8s.io/client-go/features"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
)

//go:embed gates.txt
var list string

// Register makes the gates known to the process's registry. It must come before flags are added; a second call does nothing.
var Register = sync.OnceFunc(func() {
	if err := register(); err != nil {
		panic(err) // gates.txt is part of the program
	}
})

// Enabled tells whether a gate is open. It panics if gates.txt has no such gate.
func Enabled(gate featuregate.Feature) bool {
	Register()
	return utilfeature.DefaultFeatureGate.Enabled(gate)
}

// AddFlags registers --feature-gates, --emulated-version and --min-compatibility-version, for programs that do not get them from
// the library's server options. Apply must follow once they are parsed.
func AddFlags(fs *pflag.FlagSet) {
	Register()
	registry := compatibility.DefaultComponentGlobalsRegistry
	registry.ComponentGlobalsOrRegister(basecompatibility.DefaultKubeComponent, compatibility.DefaultBuildEffectiveVersion(), utilfeature.DefaultMutableFeatureGate)
	registry.AddFlags(fs)
}

// Apply gives the gates the values of the parsed flags. An unknown gate is an error, as is one that cannot be changed.
func Apply() error { return compatibility.DefaultComponentGlobalsRegistry.Set() }

// ApplyMap opens and closes the gates that a configuration file names. An unknown gate is an error, as is one that cannot be changed.
func ApplyMap(gates map[string]bool) error {
	Register()
	return utilfeature.DefaultMutableFeatureGate.SetFromMap(gates)
}

func register() error {
	gates := utilfeature.DefaultMutableFeatureGate
	specs, needs := map[featuregate.Feature]featuregate.VersionedSpecs{}, map[featuregate.Feature][]featuregate.Feature{}
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		name := featuregate.Feature(words[0])
		for _, word := range words[1:] {
			if other, ok := strings.CutPrefix(word, "needs="); ok {
				needs[name] = append(needs[name], featuregate.Feature(other))
				continue
			}
			spec, err := parseStage(word)
			if err != nil {
				return fmt.Errorf("feature gate %s: %w", name, err)
			}
			specs[name] = append(specs[name], spec)
		}
	}
	if err := gates.AddVersioned(specs); err != nil {
		return err
	}
	if err := gates.AddDependencies(needs); err != nil {
		return err
	}
	clientfeatures.ReplaceFeatureGates(clientGates{gates})
	return logsapi.AddFeatureGates(gates)
}

// stages are the words of gates.txt for how mature a gate is.
var stages = map[string]featuregate.FeatureSpec{
	"ALPHA": {PreRelease: featuregate.Alpha}, "BETA": {PreRelease: featuregate.Beta}, "GA": {PreRelease: featuregate.GA},
	"DEPRECATED": {PreRelease: featuregate.Deprecated}, "PRE-ALPHA": {PreRelease: featuregate.PreAlpha},
}

// parseStage reads a word such as 1.33:BETA=true.
func parseStage(word string) (featuregate.FeatureSpec, error) {
	versions, rest, _ := strings.Cut(word, ":")
	stage, value, _ := strings.Cut(rest, "=")
	s, ok := stages[stage]
	if !ok {
		return s, fmt.Errorf("%q is no stage", word)
	}
	since, least, hasLeast := strings.Cut(versions, "/")
	var err error
	if s.Version, err = version.Parse(since); err == nil && hasLeast {
		s.MinCompatibilityVersion, err = version.Parse(least)
	}
	s.Default, s.LockToDefault = strings.HasPrefix(value, "true"), strings.HasSuffix(value, "!")
	return s, err
}

// clientGates has client-go ask the process's registry rather than the environment.
type clientGates struct{ gates featuregate.FeatureGate }

// Enabled implements clientfeatures.Gates.
func (c clientGates) Enabled(name clientfeatures.Feature) bool {
	return c.gates.Enabled(featuregate.Feature(name))
}
