package features

import (
	"testing"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/component-base/featuregate"
)

func TestGates(t *testing.T) {
	// A gate of each origin: Kubernetes' own, the library's, client-go's, logging's.
	for gate, want := range map[featuregate.Feature]bool{
		"EmptyDirVolumeMode": false, "DRAConsumableCapacity": true, "WatchList": true, "WatchListClient": true, "LoggingAlphaOptions": false,
	} {
		if got := Enabled(gate); got != want {
			t.Errorf("%s is %t, want %t", gate, got, want)
		}
	}
	if err := ApplyMap(map[string]bool{"EmptyDirVolumeMode": true, "WatchListClient": false}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, gate := range []featuregate.Feature{"EmptyDirVolumeMode", "WatchListClient"} {
			if err := utilfeature.DefaultMutableFeatureGate.ResetFeatureValueToDefault(gate); err != nil {
				t.Error(err)
			}
		}
	})
	if !Enabled("EmptyDirVolumeMode") || clientfeatures.FeatureGates().Enabled(clientfeatures.WatchListClient) {
		t.Error("gates do not follow what is applied")
	}
	if err := ApplyMap(map[string]bool{"Nothing": true}); err == nil || err.Error() != "unrecognized feature gate: Nothing" {
		t.Errorf("an unknown gate: %v", err)
	}
}
