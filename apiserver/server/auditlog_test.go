package server

import (
	"bytes"
	"math/rand"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
	"sigs.k8s.io/randfill"
)

// TestAuditLinesAreTheLibrarys compares the lines of random events, in which nothing, something or everything is set.
func TestAuditLinesAreTheLibrarys(t *testing.T) {
	texts := []string{"", "", "plain", `"quoted" \ <&>`, "tab\t\x00", "Größe \u2028", "\xff\xfe", "/api/v1/pods?limit=500"}
	random := rand.New(rand.NewSource(1)) //nolint:gosec // a test that repeats
	fill := randfill.New().RandSource(rand.NewSource(2)).NilChance(0.4).NumElements(0, 2).Funcs(
		func(s *string, _ randfill.Continue) { *s = texts[random.Intn(len(texts))] },
		func(at *metav1.MicroTime, _ randfill.Continue) {
			if random.Intn(4) > 0 {
				at.Time = time.Unix(random.Int63n(1<<33), random.Int63n(1e9)).In(time.FixedZone("", 3600))
			}
		},
		func(extra *authnv1.ExtraValue, _ randfill.Continue) {
			*extra = []authnv1.ExtraValue{nil, {}, {"one"}, {"one", "<two>"}}[random.Intn(4)]
		},
		func(status *metav1.Status, c randfill.Continue) {
			if c.FillNoCustom(status); random.Intn(2) == 0 {
				*status = metav1.Status{Code: status.Code}
			}
		},
	)
	for range 2000 {
		var event auditapi.Event
		fill.Fill(&event)
		event.TypeMeta = metav1.TypeMeta{}
		event.RequestObject = nil // an unknown object of random bytes is no JSON
		event.ResponseObject = nil
		var want, got bytes.Buffer
		library := auditlog.NewBackend(&want, auditlog.FormatJson, auditv1.SchemeGroupVersion)
		log := &auditLog{Backend: auditlog.NewBackend(&got, auditlog.FormatJson, auditv1.SchemeGroupVersion), out: &got}
		if !library.ProcessEvents(&event) || !log.ProcessEvents(&event) {
			t.Fatal("not written")
		}
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Fatal(diff)
		}
	}
}
