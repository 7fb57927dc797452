package validate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestResourceNames(t *testing.T) {
	type traits struct{ Native, Extended, Overcommit, Integer, Container, Standard bool }
	for name, want := range map[corev1.ResourceName]traits{
		"cpu":                   {Native: true, Overcommit: true, Container: true, Standard: true},
		"pods":                  {Native: true, Overcommit: true, Integer: true, Standard: true},
		"hugepages-2Mi":         {Native: true, Container: true, Standard: true},
		"requests.hugepages-1G": {Native: true, Overcommit: true, Standard: true},
		"kubernetes.io/x":       {Native: true, Overcommit: true},
		"example.com/gpu":       {Extended: true, Integer: true},
		"requests.a.com/gpu":    {},
		"foo":                   {Native: true, Overcommit: true},
	} {
		got := traits{IsNative(name), IsExtended(name), IsOvercommitAllowed(name), IsInteger(name), IsStandardContainer(name), IsStandard(name)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPaths(t *testing.T) {
	at := field.NewPath("p")
	for target, want := range map[string]int{"a/b": 0, "": 0, "/a": 1, "a/../b": 1, `a\..\b`: 1, "..a": 0, "../a": 1} {
		if got := len(DescendingPath(target, at)); got != want {
			t.Errorf("%q: %d errors, want %d", target, got, want)
		}
	}
	for target, want := range map[string]int{"a": 0, "..a": 1, "../a": 1, "a/..b": 0} {
		if got := len(NonReservedPath(target, at)); got != want {
			t.Errorf("%q: %d errors, want %d", target, got, want)
		}
	}
}

func TestIntOrPercent(t *testing.T) {
	at := field.NewPath("p")
	for value, want := range map[intstr.IntOrString]string{
		intstr.FromInt32(3):       "",
		intstr.FromString("100%"): "",
		intstr.FromInt32(-1):      "p: Invalid value: -1: must be greater than or equal to 0",
		intstr.FromString("101%"): `p: Invalid value: "101%": must not be greater than 100%`,
	} {
		got := ""
		for _, err := range append(PositiveIntOrPercent(value, at), AtMost100Percent(value, at)...) {
			got += err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", value.String(), got, want)
		}
	}
}

func TestTaints(t *testing.T) {
	taints := []corev1.Taint{
		{Key: "a", Effect: corev1.TaintEffectNoSchedule}, {Key: "a", Value: "v", Effect: corev1.TaintEffectNoSchedule}, {Key: "a"}, {Key: "b", Effect: "Maybe"},
	}
	want := []string{
		`t[1]: Duplicate value: {"key":"a","value":"v","effect":"NoSchedule"}: taints must be unique by key and effect pair`,
		"t[2].effect: Required value",
		`t[3].effect: Unsupported value: "Maybe": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
	}
	var got []string
	for _, err := range Taints(taints, field.NewPath("t")) {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestNodeFieldSelector(t *testing.T) {
	selector := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}},
		{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n", "m"}},
		{Key: "metadata.uid", Operator: corev1.NodeSelectorOpExists},
	}}}}
	const fields = "s.nodeSelectorTerms[0].matchFields"
	want := []string{
		fields + "[1].values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
		fields + `[2].operator: Invalid value: "Exists": not a valid selector operator`,
		fields + `[2].key: Invalid value: "metadata.uid": not a valid field selector key`,
	}
	var got []string
	for _, err := range NodeSelector(selector, field.NewPath("s")) {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}
