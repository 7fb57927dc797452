// Package expressions compiles the CEL expressions of admission policies and webhook configurations when these are written, so
// that a mistake is answered with the field that it is in and not found out by the first request that the policy sees.
package expressions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/manifest"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/util/jsonpath"

	apiresource "keelson.dev/apis/resource"
)

// Validate compiles every expression of obj, if it is of a kind that has some; old is nil on create. Expressions that the stored
// object has already are held only to what the oldest server of the cluster can run.
func Validate(obj, old runtime.Object) field.ErrorList {
	stored := expressionsOf(old)
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		return validatingPolicy(o, newCompiler(o.Spec.ParamKind != nil, len(o.Spec.Variables) > 0, stored), spec)
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		return mutatingPolicy(o, newCompiler(o.Spec.ParamKind != nil, len(o.Spec.Variables) > 0, stored), spec)
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		var errs field.ErrorList
		for i := range o.Webhooks {
			errs = append(errs, webhook(o.Webhooks[i].MatchConditions, stored, field.NewPath("webhooks").Index(i))...)
		}
		return errs
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		var errs field.ErrorList
		for i := range o.Webhooks {
			errs = append(errs, webhook(o.Webhooks[i].MatchConditions, stored, field.NewPath("webhooks").Index(i))...)
		}
		return errs
	}
	return nil
}

func webhook(conditions []admissionregistrationv1.MatchCondition, stored []string, path *field.Path) field.ErrorList {
	if len(conditions) == 0 {
		return nil // compiling needs an environment that is expensive to build
	}
	return newCompiler(false, false, stored).matchConditions(conditions, path.Child("matchConditions"))
}

func validatingPolicy(policy *admissionregistrationv1.ValidatingAdmissionPolicy, c *compiler, spec *field.Path) field.ErrorList {
	errs := c.variables(policy.Spec.Variables, spec.Child("variables"))
	errs = append(errs, c.matchConditions(policy.Spec.MatchConditions, spec.Child("matchConditions"))...)
	for i, v := range policy.Spec.Validations {
		path := spec.Child("validations").Index(i)
		errs = append(errs, c.compile(&validating.ValidationCondition{Expression: v.Expression}, c.options, path.Child("expression"))...)
		if v.MessageExpression != "" {
			// What is told to the user must not depend on what the user may do.
			options := c.options
			options.HasAuthorizer = false
			errs = append(errs, c.compile(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, options, path.Child("messageExpression"))...)
		}
	}
	for i, a := range policy.Spec.AuditAnnotations {
		if len(strings.TrimSpace(a.ValueExpression)) > maxAuditExpression {
			continue // told by the kind's own rules
		}
		path := spec.Child("auditAnnotations").Index(i).Child("valueExpression")
		errs = append(errs, c.compile(&validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, c.options, path)...)
	}
	return errs
}

const maxAuditExpression = 5 << 10 // bytes

// ValidateStatus parses the JSON paths by which the warnings of a policy's status name its expressions.
func ValidateStatus(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	checked := obj.(*admissionregistrationv1.ValidatingAdmissionPolicy).Status.TypeChecking
	if checked == nil {
		return nil
	}
	var errs field.ErrorList
	for i, warning := range checked.ExpressionWarnings {
		ref := strings.TrimSpace(warning.FieldRef)
		if err := jsonpath.New("spec").Parse("{" + ref + "}"); ref != "" && err != nil {
			path := field.NewPath("status", "typeChecking", "expressionWarnings").Index(i).Child("fieldRef")
			errs = append(errs, field.Invalid(path, ref, fmt.Sprintf("invalid JSONPath: %v", err)))
		}
	}
	return errs
}

func mutatingPolicy(policy *admissionregistrationv1.MutatingAdmissionPolicy, c *compiler, spec *field.Path) field.ErrorList {
	errs := c.variables(policy.Spec.Variables, spec.Child("variables"))
	errs = append(errs, c.matchConditions(policy.Spec.MatchConditions, spec.Child("matchConditions"))...)
	options := c.options
	options.HasPatchTypes = true
	for i, m := range policy.Spec.Mutations {
		path := spec.Child("mutations").Index(i)
		if m.JSONPatch != nil && m.PatchType == admissionregistrationv1.PatchTypeJSONPatch {
			errs = append(errs, c.compile(&patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, options, path.Child("jsonPatch", "expression"))...)
		}
		if m.ApplyConfiguration != nil && m.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration {
			errs = append(errs, c.compile(&patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, options, path.Child("applyConfiguration", "expression"))...)
		}
	}
	return errs
}

// compiler compiles the expressions of one object. Those of an object with variables see these.
type compiler struct {
	plugincel.Compiler
	composited *plugincel.CompositedCompiler // nil without variables
	err        error
	options    plugincel.OptionalVariableDeclarations
	stored     []string
}

func newCompiler(params, variables bool, stored []string) *compiler {
	c := &compiler{stored: stored, options: plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}}
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	if !variables {
		c.Compiler = plugincel.NewCompiler(base)
		return c
	}
	c.composited, c.err = plugincel.NewCompositedCompiler(base)
	c.Compiler = c.composited
	return c
}

func (c *compiler) mode(expression string) environment.Type {
	if slices.Contains(c.stored, expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (c *compiler) variables(variables []admissionregistrationv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		if v.Name == "" || v.Expression == "" {
			continue // told by the kind's own rules
		}
		if c.err != nil {
			return field.ErrorList{field.InternalError(path, c.err)}
		}
		result := c.composited.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, c.options, c.mode(v.Expression))
		errs = append(errs, convert(path.Index(i).Child("expression"), v.Expression, result.Error)...)
	}
	return errs
}

func (c *compiler) matchConditions(conditions []admissionregistrationv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range conditions {
		errs = append(errs, c.compile((*matchconditions.MatchCondition)(&conditions[i]), c.options, path.Index(i).Child("expression"))...)
	}
	return errs
}

func (c *compiler) compile(accessor plugincel.ExpressionAccessor, options plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	expression := accessor.GetExpression()
	if expression == "" {
		return nil // told by the kind's own rules
	}
	if c.err != nil {
		return field.ErrorList{field.InternalError(path, c.err)}
	}
	return convert(path, expression, c.CompileCELExpression(accessor, options, c.mode(expression)).Error)
}

func convert(path *field.Path, expression string, err *apiservercel.Error) field.ErrorList {
	if err == nil {
		return nil
	}
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, expression, err.Detail)}
	default:
		return field.ErrorList{field.InternalError(path, fmt.Errorf("unsupported error type: %w", err))}
	}
}

// expressionsOf lists the expressions of a stored object.
func expressionsOf(old runtime.Object) []string {
	var all []string
	conditions := func(list []admissionregistrationv1.MatchCondition) {
		for _, c := range list {
			all = append(all, c.Expression)
		}
	}
	variables := func(list []admissionregistrationv1.Variable) {
		for _, v := range list {
			all = append(all, v.Expression)
		}
	}
	switch o := old.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		conditions(o.Spec.MatchConditions)
		variables(o.Spec.Variables)
		for _, v := range o.Spec.Validations {
			all = append(all, v.Expression, v.MessageExpression)
		}
		for _, a := range o.Spec.AuditAnnotations {
			all = append(all, a.ValueExpression)
		}
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		conditions(o.Spec.MatchConditions)
		variables(o.Spec.Variables)
		for _, m := range o.Spec.Mutations {
			if m.JSONPatch != nil {
				all = append(all, m.JSONPatch.Expression)
			}
			if m.ApplyConfiguration != nil {
				all = append(all, m.ApplyConfiguration.Expression)
			}
		}
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		for i := range o.Webhooks {
			conditions(o.Webhooks[i].MatchConditions)
		}
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		for i := range o.Webhooks {
			conditions(o.Webhooks[i].MatchConditions)
		}
	}
	return all
}

// Guards returns Validate as checks of the writes of each kind, in the form that the registry takes. They also keep the names of
// what is read from files (package admission) out of the API. others are the kinds' own rules, told along with what does not compile.
func Guards(others map[schema.GroupResource]func(apiresource.Object) field.ErrorList) map[schema.GroupResource]func(ctx context.Context, obj, old runtime.Object) error {
	guards := map[schema.GroupResource]func(context.Context, runtime.Object, runtime.Object) error{}
	for resource, kind := range map[string]string{
		"validatingadmissionpolicies": "ValidatingAdmissionPolicy", "mutatingadmissionpolicies": "MutatingAdmissionPolicy",
		"validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings": "MutatingAdmissionPolicyBinding",
		"validatingwebhookconfigurations": "ValidatingWebhookConfiguration", "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
	} {
		gk := admissionregistrationv1.SchemeGroupVersion.WithKind(kind).GroupKind()
		guards[admissionregistrationv1.Resource(resource)] = func(_ context.Context, obj, old runtime.Object) error {
			name := obj.(metav1.Object).GetName()
			errs := Validate(obj, old)
			if rules := others[admissionregistrationv1.Resource(resource)]; len(errs) > 0 && rules != nil {
				errs = append(rules(obj.(apiresource.Object)), errs...) // all that is wrong is told at once
			}
			if old == nil && strings.HasSuffix(name, manifest.StaticConfigSuffix) {
				errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), name,
					fmt.Sprintf("names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", manifest.StaticConfigSuffix)))
			}
			if len(errs) > 0 {
				return apierrors.NewInvalid(gk, name, errs)
			}
			return nil
		}
	}
	return guards
}
