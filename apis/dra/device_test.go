package dra

import (
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func TestValidateCapacity(t *testing.T) {
	for name, c := range map[string]struct{ policy, want string }{
		"none":          {``, ``},
		"values":        {`{default: "2", validValues: ["1", "2"]}`, ``},
		"no default":    {`{validValues: ["1"]}`, `p.default: Required value: required when validValues is defined`},
		"other default": {`{default: "3", validValues: ["1", "2"]}`, `p.validValues: Invalid value: "3": default value is not valid according to the requestPolicy`},
		"unsorted":      {`{default: "1", validValues: ["2", "1"]}`, `p.validValues[1]: Invalid value: "1": values must be sorted in ascending order`},
		"range":         {`{default: "4", validRange: {min: "2", max: "8", step: "2"}}`, ``},
		"no min":        {`{default: "4", validRange: {max: "8"}}`, `p.validRange.min: Required value: required when validRange is defined`},
		"no step":       {`{default: "5", validRange: {min: "2", max: "8", step: "2"}}`, `p.validRange.step: Invalid value: "5": value is not a multiple of a given step (2) from (2)`},
		"huge step":     {`{default: "2", validRange: {min: "2", step: "18446744073709551616"}}`, `p.validRange.step: Invalid value: "18446744073709551616": must not be larger than 9223372036854775807`},
		"too great":     {`{default: "2", validRange: {min: "2", max: "20"}}`, `p.validRange.max: Invalid value: "20": max is larger than capacity value: 10`},
	} {
		t.Run(name, func(t *testing.T) {
			capacity := resourcev1.DeviceCapacity{}
			if err := yaml.UnmarshalStrict([]byte(`{value: "10", requestPolicy: `+c.policy+`}`), &capacity); err != nil {
				t.Fatal(err)
			}
			errs := validateCapacity(&capacity, true, field.NewPath("p"))
			if got := errs.ToAggregate(); got == nil && c.want != "" || got != nil && (c.want == "" || !strings.Contains(got.Error(), c.want)) {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestValidateSelectors(t *testing.T) {
	for expression, want := range map[string]string{
		`device.driver == "d.example.com"`: ``,
		`device.driver`:                    `p[0].cel.expression: Invalid value: "device.driver": must evaluate to bool or the unknown type, not string`,
		``:                                 `compilation failed`,
		`[1,2,3,4,5,6,7,8,9,0].all(a, [1,2,3,4,5,6,7,8,9,0].all(b, [1,2,3,4,5,6,7,8,9,0].all(c, [1,2,3,4,5,6,7,8,9,0].all(d, [1,2,3,4,5,6,7,8,9,0].all(e, [1,2,3,4,5,6,7,8,9,0].all(f, a == b && c == d && e == f))))))`: `p[0].cel.expression: Forbidden: too complex, exceeds cost limit`,
	} {
		errs := validateSelectors([]resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}, field.NewPath("p"))
		if got := errs.ToAggregate(); got == nil && want != "" || got != nil && (want == "" || !strings.Contains(got.Error(), want)) {
			t.Errorf("%s: got %v, want %s", expression, got, want)
		}
	}
}
