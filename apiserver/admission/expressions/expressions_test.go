package expressions

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestValidate(t *testing.T) {
	policy := func(change func(*admissionregistrationv1.ValidatingAdmissionPolicySpec)) runtime.Object {
		p := &admissionregistrationv1.ValidatingAdmissionPolicy{}
		change(&p.Spec)
		return p
	}
	type spec = admissionregistrationv1.ValidatingAdmissionPolicySpec
	validating := func(v ...admissionregistrationv1.Validation) runtime.Object {
		return policy(func(s *spec) { s.Validations = v })
	}
	mutating := func(m admissionregistrationv1.Mutation) runtime.Object {
		return &admissionregistrationv1.MutatingAdmissionPolicy{Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{Mutations: []admissionregistrationv1.Mutation{m}}}
	}
	hook := func(expression string) runtime.Object {
		return &admissionregistrationv1.ValidatingWebhookConfiguration{Webhooks: []admissionregistrationv1.ValidatingWebhook{
			{}, {MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "x", Expression: expression}}},
		}}
	}
	cases := map[string]struct {
		obj  runtime.Object
		want []string // fields with errors
	}{
		"good":         {validating(admissionregistrationv1.Validation{Expression: "object.spec.replicas < 5", MessageExpression: "'too many'"}), nil},
		"syntax":       {validating(admissionregistrationv1.Validation{Expression: "object.spec ."}), []string{"spec.validations[0].expression"}},
		"no boolean":   {validating(admissionregistrationv1.Validation{Expression: "'x'"}), []string{"spec.validations[0].expression"}},
		"no string":    {validating(admissionregistrationv1.Validation{Expression: "true", MessageExpression: "1"}), []string{"spec.validations[0].messageExpression"}},
		"message asks": {validating(admissionregistrationv1.Validation{Expression: "authorizer.path('/x').check('get').allowed()", MessageExpression: "authorizer.path('/x').check('get').reason()"}), []string{"spec.validations[0].messageExpression"}},
		"params": {policy(func(s *spec) {
			s.ParamKind = &admissionregistrationv1.ParamKind{}
			s.Validations = []admissionregistrationv1.Validation{{Expression: "params.a == 1"}}
		}), nil},
		"no params": {validating(admissionregistrationv1.Validation{Expression: "params.a == 1"}), []string{"spec.validations[0].expression"}},
		"variables": {policy(func(s *spec) {
			s.Variables = []admissionregistrationv1.Variable{{Name: "a", Expression: "1"}, {Name: "b", Expression: "variables.a + 1"}}
			s.Validations = []admissionregistrationv1.Validation{{Expression: "variables.b == 2"}}
		}), nil},
		"unknown variable": {policy(func(s *spec) {
			s.Variables = []admissionregistrationv1.Variable{{Name: "b", Expression: "variables.a"}}
		}), []string{"spec.variables[0].expression"}},
		"annotation": {policy(func(s *spec) {
			s.AuditAnnotations = []admissionregistrationv1.AuditAnnotation{{Key: "k", ValueExpression: "true"}}
		}), []string{"spec.auditAnnotations[0].valueExpression"}},
		"condition": {policy(func(s *spec) {
			s.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "m", Expression: "1"}}
		}), []string{"spec.matchConditions[0].expression"}},
		"patch":       {mutating(admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/a", value: "b"}]`}}), nil},
		"bad patch":   {mutating(admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `"x"`}}), []string{"spec.mutations[0].jsonPatch.expression"}},
		"apply":       {mutating(admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{spec: Object.spec{replicas: 1}}`}}), nil},
		"bad apply":   {mutating(admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `1`}}), []string{"spec.mutations[0].applyConfiguration.expression"}},
		"webhook":     {hook("request.operation == 'CREATE'"), nil},
		"bad webhook": {hook("... []"), []string{"webhooks[1].matchConditions[0].expression"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, err := range Validate(c.obj, nil) {
				got = append(got, err.Field)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff, Validate(c.obj, nil))
			}
		})
	}
}
