package subresources

import (
	"slices"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEvictionOptionsAgreeOnDryRun(t *testing.T) {
	all, other := []string{metav1.DryRunAll}, []string{"x"}
	for _, test := range []struct {
		name                string
		request, body, want []string
		refused             bool
	}{
		{name: "neither"},
		{name: "request", request: all, want: all},
		{name: "body", body: all, want: all},
		{name: "both", request: all, body: all, want: all},
		{name: "they differ", request: all, body: other, refused: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			eviction := &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{DryRun: test.body}}
			got, err := evictionOptions(eviction, &metav1.CreateOptions{DryRun: test.request})
			if (err != nil) != test.refused {
				t.Fatalf("error %v", err)
			}
			if err == nil && !slices.Equal(got.DryRun, test.want) {
				t.Errorf("dry run %v, want %v", got.DryRun, test.want)
			}
		})
	}
}
