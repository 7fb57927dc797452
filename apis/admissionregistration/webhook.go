package admissionregistration

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// webhook is what both kinds of webhook have, by pointers into them, so that one set of defaults and rules serves both.
type webhook struct {
	name               string
	clientConfig       *admissionregistrationv1.WebhookClientConfig
	rules              []admissionregistrationv1.RuleWithOperations
	failurePolicy      **admissionregistrationv1.FailurePolicyType
	matchPolicy        **admissionregistrationv1.MatchPolicyType
	namespaceSelector  **metav1.LabelSelector
	objectSelector     **metav1.LabelSelector
	sideEffects        *admissionregistrationv1.SideEffectClass
	timeoutSeconds     **int32
	reviewVersions     []string
	reinvocationPolicy **admissionregistrationv1.ReinvocationPolicyType // nil for validating webhooks
	matchConditions    []admissionregistrationv1.MatchCondition
}

func ofValidating(w *admissionregistrationv1.ValidatingWebhook) webhook {
	return webhook{
		name: w.Name, clientConfig: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaceSelector: &w.NamespaceSelector, objectSelector: &w.ObjectSelector, sideEffects: w.SideEffects,
		timeoutSeconds: &w.TimeoutSeconds, reviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions,
	}
}

func ofMutating(w *admissionregistrationv1.MutatingWebhook) webhook {
	return webhook{
		name: w.Name, clientConfig: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaceSelector: &w.NamespaceSelector, objectSelector: &w.ObjectSelector, sideEffects: w.SideEffects,
		timeoutSeconds: &w.TimeoutSeconds, reviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions,
		reinvocationPolicy: &w.ReinvocationPolicy,
	}
}

func defaultWebhook(w webhook) {
	resource.SetDefaultPtr(w.failurePolicy, admissionregistrationv1.Fail)
	resource.SetDefaultPtr(w.matchPolicy, admissionregistrationv1.Equivalent)
	resource.SetDefaultPtr(w.namespaceSelector, metav1.LabelSelector{})
	resource.SetDefaultPtr(w.objectSelector, metav1.LabelSelector{})
	resource.SetDefaultPtr(w.timeoutSeconds, 10)
	if w.reinvocationPolicy != nil {
		resource.SetDefaultPtr(w.reinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
	}
	for i := range w.rules {
		resource.SetDefaultPtr(&w.rules[i].Scope, admissionregistrationv1.AllScopes)
	}
	if service := w.clientConfig.Service; service != nil {
		resource.SetDefaultPtr(&service.Port, 443)
	}
}

func validateWebhooks(webhooks []webhook) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, w := range webhooks {
		path := field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(w, path)...)
		if w.name != "" && names.Has(w.name) {
			errs = append(errs, field.Duplicate(path.Child("name"), w.name))
		}
		names.Insert(w.name)
	}
	return errs
}

func validateWebhook(w webhook, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), w.name)
	errs = append(errs, validateReviewVersions(w.reviewVersions, path.Child("admissionReviewVersions"))...)
	for i := range w.rules {
		errs = append(errs, validateRule(&w.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, validate.OptionalOneOf(*w.failurePolicy, path.Child("failurePolicy"),
		admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	errs = append(errs, validate.OptionalOneOf(*w.matchPolicy, path.Child("matchPolicy"),
		admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	effects := path.Child("sideEffects")
	if w.sideEffects == nil {
		errs = append(errs, field.Required(effects, "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, validate.OneOf(*w.sideEffects, effects,
			admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun)...)
	}
	if timeout := *w.timeoutSeconds; timeout != nil && (*timeout < 1 || *timeout > 30) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *timeout, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validate.LabelSelector(*w.namespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, validate.LabelSelector(*w.objectSelector, path.Child("objectSelector"))...)
	if w.reinvocationPolicy != nil {
		errs = append(errs, validate.OptionalOneOf(*w.reinvocationPolicy, path.Child("reinvocationPolicy"),
			admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
	}
	errs = append(errs, validateClientConfig(w.clientConfig, path.Child("clientConfig"))...)
	return append(errs, validateMatchConditions(w.matchConditions, path.Child("matchConditions"))...)
}

// acceptedReviewVersions are the versions of AdmissionReview that the server can send.
var acceptedReviewVersions = []string{"v1", "v1beta1"}

func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	accepted := strings.Join(acceptedReviewVersions, ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+accepted)}
	}
	var errs field.ErrorList
	known := false
	for i, version := range versions {
		if slices.Contains(versions[:i], version) {
			errs = append(errs, field.Invalid(path.Index(i), version, "duplicate version"))
			continue
		}
		for _, message := range validation.IsDNS1035Label(version) {
			errs = append(errs, field.Invalid(path.Index(i), version, message))
		}
		known = known || slices.Contains(acceptedReviewVersions, version)
	}
	if !known {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+accepted))
	}
	return errs
}

func validateClientConfig(c *admissionregistrationv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateURL(*c.URL, path.Child("url"))
	}
	var errs field.ErrorList
	service, servicePath := c.Service, path.Child("service")
	if service.Name == "" {
		errs = append(errs, field.Required(servicePath.Child("namespace"), ""))
	}
	if service.Namespace == "" {
		errs = append(errs, field.Required(servicePath.Child("name"), "")) // upstream tells the two the wrong way round
	}
	if service.Port != nil {
		for _, message := range validation.IsValidPortNum(int(*service.Port)) {
			errs = append(errs, field.Invalid(servicePath.Child("port"), *service.Port, "port is not valid: "+message))
		}
	}
	if service.Path != nil {
		errs = append(errs, validateServicePath(*service.Path, servicePath.Child("path"))...)
	}
	return errs
}

func validateURL(address string, path *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(address)
	if err != nil {
		return field.ErrorList{field.Required(path, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	invalid := func(value, message string) { errs = append(errs, field.Invalid(path, value, message)) }
	if u.Scheme != "https" {
		invalid(u.Scheme, "'https' is the only allowed URL scheme"+form)
	}
	if u.Host == "" {
		invalid(u.Host, "host must be specified"+form)
	}
	if u.User != nil {
		invalid(u.User.String(), "user information is not permitted in the URL")
	}
	if u.Fragment != "" {
		invalid(u.Fragment, "fragments are not permitted in the URL")
	}
	if u.RawQuery != "" {
		invalid(u.RawQuery, "query parameters are not permitted in the URL")
	}
	return errs
}

func validateServicePath(urlPath string, path *field.Path) field.ErrorList {
	u, err := url.Parse("https://host" + urlPath)
	switch {
	case urlPath == "": // as good as "/"
		return nil
	case strings.HasPrefix(urlPath, "/") && (err != nil || u.Path != urlPath && u.EscapedPath() != urlPath):
		return field.ErrorList{field.Invalid(path, urlPath, "must be a valid URL path")}
	case urlPath == "/":
		return nil
	}
	var errs field.ErrorList
	if !strings.HasPrefix(urlPath, "/") {
		errs = append(errs, field.Invalid(path, urlPath, "must start with a '/'"))
	}
	steps := strings.Split(strings.TrimSuffix(urlPath[1:], "/"), "/")
	for i, step := range steps {
		if step == "" {
			errs = append(errs, field.Invalid(path, urlPath, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, message := range validation.IsDNS1123Subdomain(step) {
			errs = append(errs, field.Invalid(path, urlPath, fmt.Sprintf("segment[%d]: %v", i, message)))
		}
	}
	return errs
}

const maxMatchConditions = 64

// validateMatchConditions checks all but the expressions, which package apiserver compiles.
func validateMatchConditions(conditions []admissionregistrationv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxMatchConditions))
	}
	names := sets.New[string]()
	for i, condition := range conditions {
		conditionPath := path.Index(i)
		if strings.TrimSpace(condition.Expression) == "" {
			errs = append(errs, field.Required(conditionPath.Child("expression"), ""))
		}
		if condition.Name == "" {
			errs = append(errs, field.Required(conditionPath.Child("name"), ""))
			continue
		}
		errs = append(errs, validate.QualifiedName(condition.Name, conditionPath.Child("name"))...)
		if names.Has(condition.Name) {
			errs = append(errs, field.Duplicate(conditionPath.Child("name"), condition.Name))
		}
		names.Insert(condition.Name)
	}
	return errs
}
