package buildkit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRegistriesOf(t *testing.T) {
	cases := map[string]struct {
		stored []string
		text   string
		want   []string
	}{
		"Nothing": {want: []string{"docker.io"}},
		"Stored":  {stored: []string{"nginx:1", "registry.k8s.io/pause:3", "10.0.0.2:5000/a:1"}, want: []string{"10.0.0.2:5000", "docker.io", "registry.k8s.io"}},
		"From":    {text: "FROM --platform=linux/amd64 quay.io/a/b:1 AS x\nCOPY --from=ghcr.io/c/d /etc/x /y", want: []string{"docker.io", "ghcr.io", "quay.io"}},
		"Port":    {text: "FROM localhost:5000/a", want: []string{"docker.io", "localhost:5000"}},
		"Arg":     {text: "FROM ${BASE}\nBASE=example.test/x:1", want: []string{"docker.io", "example.test"}},
		"Docker":  {text: "FROM debian\nFROM docker.io/library/debian\nCOPY dir/file /", want: []string{"docker.io"}},
	}
	for label, tc := range cases {
		t.Run(label, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, registriesOf(tc.stored, tc.text)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
