package admissionregistration

import (
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// validatingAdmissionPolicy is a set of rules in CEL that requests must obey.
var validatingAdmissionPolicy = resource.Definition[*admissionregistrationv1.ValidatingAdmissionPolicy]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicy", AnyFinalizer: true, Plural: "validatingadmissionpolicies",
	Categories: []string{"api-extensions"}, HasStatus: true, StatusFixes: []string{"metadata"}, AllowUnconditionalUpdate: true,
	Default: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
		resource.SetDefaultPtr(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	Validate: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
		return validateValidatingPolicy(p, field.NewPath("spec"))
	},
	ValidateStatus: validatePolicyStatus,
	Columns: policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration",
		func(p *admissionregistrationv1.ValidatingAdmissionPolicy) int { return len(p.Spec.Validations) },
		func(p *admissionregistrationv1.ValidatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
			return p.Spec.ParamKind
		}),
}

const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 << 10 // bytes
)

func validateValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy, path *field.Path) field.ErrorList {
	spec := &p.Spec
	errs := validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateConstraints(spec.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, validateMatchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	errs = append(errs, validateVariables(spec.Variables, path.Child("variables"))...)
	if len(spec.Validations)+len(spec.AuditAnnotations) == 0 {
		for _, list := range []string{"validations", "auditAnnotations"} {
			errs = append(errs, field.Required(path.Child(list), "validations or auditAnnotations must contain at least one item"))
		}
	}
	for i := range spec.Validations {
		errs = append(errs, validateValidation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	annotations := path.Child("auditAnnotations")
	if len(spec.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(annotations, spec.AuditAnnotations, "must not have more than 20 auditAnnotations"))
	}
	keys := sets.New[string]()
	for i, annotation := range spec.AuditAnnotations {
		annotationPath := annotations.Index(i)
		if p.Name == "" {
			errs = append(errs, field.Invalid(annotationPath.Child("key"), annotation.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, validate.QualifiedName(p.Name+"/"+annotation.Key, annotationPath.Child("key"))...)
		}
		if keys.Has(annotation.Key) {
			errs = append(errs, field.Duplicate(annotationPath.Child("key"), annotation.Key))
		}
		keys.Insert(annotation.Key)
		switch expression := strings.TrimSpace(annotation.ValueExpression); {
		case expression == "":
			errs = append(errs, field.Required(annotationPath.Child("valueExpression"), "valueExpression is not specified"))
		case len(expression) > maxAuditExpression:
			errs = append(errs, field.Required(annotationPath.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
		}
	}
	return errs
}

func validateValidation(v *admissionregistrationv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	message := strings.TrimSpace(v.Message)
	switch {
	case strings.TrimSpace(v.Expression) == "":
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.Contains(message, "\n"):
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "message must not contain line breaks"))
	case message == "" && strings.Contains(v.Expression, "\n"):
		errs = append(errs, field.Required(path.Child("message"), "message must be specified if expression contains line breaks"))
	}
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(path.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	}
	return append(errs, validate.OptionalOneOf(v.Reason, path.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
		metav1.StatusReasonRequestEntityTooLarge)...)
}

func validatePolicyStatus(p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if p.Status.TypeChecking != nil {
		for i, warning := range p.Status.TypeChecking.ExpressionWarnings {
			warningPath := path.Child("typeChecking", "expressionWarnings").Index(i)
			if warning.Warning == "" {
				errs = append(errs, field.Required(warningPath.Child("warning"), ""))
			}
			if strings.TrimSpace(warning.FieldRef) == "" {
				errs = append(errs, field.Required(warningPath.Child("fieldRef"), ""))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(p.Status.Conditions, path.Child("conditions"))...)
}
