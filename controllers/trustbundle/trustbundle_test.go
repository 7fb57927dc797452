package trustbundle

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestPlan(t *testing.T) {
	want, old := bundleOf([]byte("new")), bundleOf([]byte("old"))
	spoilt := want.DeepCopy()
	spoilt.Spec.TrustBundle = "x"
	cases := map[string]struct {
		have   []*certificatesv1.ClusterTrustBundle
		create bool
		remove int
	}{
		"nothing":       {nil, true, 0},
		"there":         {[]*certificatesv1.ClusterTrustBundle{want}, false, 0},
		"only the old":  {[]*certificatesv1.ClusterTrustBundle{old}, true, 0},
		"both":          {[]*certificatesv1.ClusterTrustBundle{old, want}, false, 1},
		"changed by us": {[]*certificatesv1.ClusterTrustBundle{spoilt}, false, 1},
	}
	for name, tc := range cases {
		if create, remove := plan(want, tc.have); create != tc.create || len(remove) != tc.remove {
			t.Errorf("%s: create %v, remove %d", name, create, len(remove))
		}
	}
}
