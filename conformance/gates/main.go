// Command gates prints the feature gates that upstream's programs know, in the form of internal/features/gates.txt.
package main

import (
	"fmt"
	"maps"
	"slices"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	_ "k8s.io/controller-manager/pkg/features/register" // the import registers them
	_ "k8s.io/kubernetes/pkg/features"                  // the same
)

func main() {
	gates := utilfeature.DefaultMutableFeatureGate
	needs := gates.Dependencies()
	all := gates.GetAllVersioned()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name == "AllAlpha" || name == "AllBeta" {
			continue
		}
		fmt.Print(name)
		for _, stage := range all[name] {
			fmt.Print(" ", line(stage))
		}
		for _, other := range needs[name] {
			fmt.Print(" needs=", other)
		}
		fmt.Println()
	}
}

// line is one stage of a gate: version[/least version of all servers]:stage=default[!], the last if it cannot be changed.
func line(s featuregate.FeatureSpec) string {
	out := s.Version.String()
	if s.MinCompatibilityVersion != nil {
		out += "/" + s.MinCompatibilityVersion.String()
	}
	stage := string(s.PreRelease)
	if stage == "" {
		stage = "GA"
	}
	out += fmt.Sprintf(":%s=%t", stage, s.Default)
	if s.LockToDefault {
		out += "!"
	}
	return out
}
