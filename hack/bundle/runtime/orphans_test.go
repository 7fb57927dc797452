package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// fake is a runtime with three containers, of which the CRI plugin knows one, and is making another.
type fake struct {
	list    []string
	knows   map[string]bool
	removed []string
	err     error
}

func (f *fake) made(context.Context) ([]string, error)         { return f.list, nil }
func (f *fake) known(context.Context) (map[string]bool, error) { return f.knows, nil }
func (f *fake) remove(_ context.Context, id string) error {
	if f.err == nil {
		f.removed = append(f.removed, id)
		f.list = slices.DeleteFunc(slices.Clone(f.list), func(other string) bool { return other == id })
	}
	return f.err
}

func TestSweep(t *testing.T) {
	f := &fake{list: []string{"pod", "coming", "orphan"}, knows: map[string]bool{"pod": true}}
	s := &sweeper{runtime: f, after: 5 * time.Minute, unknown: map[string]time.Time{}}
	start := time.Now()
	at := func(minutes int) error { return s.sweep(t.Context(), start.Add(time.Duration(minutes)*time.Minute)) }
	for minute := range 5 {
		if minute == 3 {
			f.knows = map[string]bool{"pod": true, "coming": true}
		}
		if err := at(minute); err != nil || len(f.removed) > 0 {
			t.Fatalf("after %d minutes %v are removed (%v)", minute, f.removed, err)
		}
	}
	f.err = errors.New("busy")
	if err := at(5); !errors.Is(err, f.err) {
		t.Fatalf("error is %v, want %v", err, f.err)
	}
	f.err = nil
	f.knows = map[string]bool{"pod": true} // forgotten a moment ago
	if err := at(6); err != nil || !slices.Equal(f.removed, []string{"orphan"}) {
		t.Fatalf("removed are %v (%v), want orphan", f.removed, err)
	}
	if err := at(11); err != nil || !slices.Equal(f.removed, []string{"orphan", "coming"}) {
		t.Fatalf("removed are %v (%v), want orphan and coming", f.removed, err)
	}
	if len(s.unknown) > 0 {
		t.Errorf("%v are still remembered", s.unknown)
	}
}

func TestNetwork(t *testing.T) {
	joins := &oci.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}}}}
	for want, spec := range map[string]*oci.Spec{"/run/netns/x": joins, "": {Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/y"}}}}} {
		if got := network(spec); got != want {
			t.Errorf("network namespace %q, want %q", got, want)
		}
	}
}
