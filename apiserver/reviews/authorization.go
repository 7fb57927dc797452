package reviews

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

func newSubjectAccessReview(auth authorizer.UnconditionalAuthorizer) rest.Storage {
	return &review[*authorizationv1.SubjectAccessReview]{
		kind:     authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(),
		singular: "subjectaccessreview",
		empty:    func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
		validate: func(_ context.Context, in *authorizationv1.SubjectAccessReview) field.ErrorList {
			errs := validateSubject(in.Spec, field.NewPath("spec"))
			return append(errs, validateNoMetadata(in.ObjectMeta)...)
		},
		answer: func(ctx context.Context, in *authorizationv1.SubjectAccessReview) error {
			in.Status = ask(ctx, auth, subject(in.Spec), in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func newLocalSubjectAccessReview(auth authorizer.UnconditionalAuthorizer) rest.Storage {
	return &review[*authorizationv1.LocalSubjectAccessReview]{
		kind:       authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(),
		singular:   "localsubjectaccessreview",
		namespaced: true,
		empty:      func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
		validate: func(_ context.Context, in *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
			spec := field.NewPath("spec")
			errs := validateSubject(in.Spec, spec)
			meta := in.ObjectMeta
			meta.Namespace = ""
			for _, err := range validateNoMetadata(meta) {
				err.Detail += " except for namespace"
				errs = append(errs, err)
			}
			if in.Spec.ResourceAttributes != nil && in.Spec.ResourceAttributes.Namespace != in.Namespace {
				errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), in.Spec.ResourceAttributes.Namespace, "must match metadata.namespace"))
			}
			if in.Spec.NonResourceAttributes != nil {
				errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), in.Spec.NonResourceAttributes, "disallowed on this kind of request"))
			}
			return errs
		},
		answer: func(ctx context.Context, in *authorizationv1.LocalSubjectAccessReview) error {
			if namespace := genericapirequest.NamespaceValue(ctx); namespace != in.Namespace {
				return apierrors.NewBadRequest(fmt.Sprintf("namespace on the object (%q) does not match the one of the request (%q)", in.Namespace, namespace))
			}
			in.Status = ask(ctx, auth, subject(in.Spec), in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func newSelfSubjectAccessReview(auth authorizer.UnconditionalAuthorizer) rest.Storage {
	return &review[*authorizationv1.SelfSubjectAccessReview]{
		kind:     authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(),
		singular: "selfsubjectaccessreview",
		empty:    func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
		validate: func(_ context.Context, in *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
			errs := validateAttributes(in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes, field.NewPath("spec"))
			return append(errs, validateNoMetadata(in.ObjectMeta)...)
		},
		answer: func(ctx context.Context, in *authorizationv1.SelfSubjectAccessReview) error {
			who, ok := genericapirequest.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			in.Status = ask(ctx, auth, who, in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func newSelfSubjectRulesReview(rules authorizer.RuleResolver) rest.Storage {
	return &review[*authorizationv1.SelfSubjectRulesReview]{
		kind:     authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview").GroupKind(),
		singular: "selfsubjectrulesreview",
		empty:    func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
		answer: func(ctx context.Context, in *authorizationv1.SelfSubjectRulesReview) error {
			who, ok := genericapirequest.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			if in.Spec.Namespace == "" {
				return apierrors.NewBadRequest("no namespace on request")
			}
			*in = authorizationv1.SelfSubjectRulesReview{Status: listRules(ctx, rules, who, in.Spec.Namespace)}
			return nil
		},
	}
}

// ask puts the question to the authorizer in the form in which a request would.
func ask(ctx context.Context, auth authorizer.UnconditionalAuthorizer, who user.Info, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	var attributes authorizer.AttributesRecord
	if resource != nil {
		attributes = resourceAttributes(resource)
	} else {
		attributes = authorizer.AttributesRecord{Verb: other.Verb, Path: other.Path}
	}
	attributes.User = who
	decision, reason, err := auth.Authorize(ctx, attributes)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func subject(in authorizationv1.SubjectAccessReviewSpec) user.Info {
	info := &user.DefaultInfo{Name: in.User, UID: in.UID, Groups: in.Groups}
	for key, values := range in.Extra {
		if info.Extra == nil {
			info.Extra = map[string][]string{}
		}
		info.Extra[key] = values
	}
	return info
}

func listRules(ctx context.Context, resolver authorizer.RuleResolver, who user.Info, namespace string) authorizationv1.SubjectRulesReviewStatus {
	resources, others, incomplete, err := resolver.RulesFor(ctx, who, namespace)
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete,
	}
	for _, rule := range resources {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range others {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs(),
		})
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func validateSubject(in authorizationv1.SubjectAccessReviewSpec, path *field.Path) field.ErrorList {
	errs := validateAttributes(in.ResourceAttributes, in.NonResourceAttributes, path)
	if in.User == "" && len(in.Groups) == 0 {
		errs = append(errs, field.Invalid(path.Child("user"), in.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if (resource == nil) == (other == nil) {
		errs = field.ErrorList{field.Invalid(path, other, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	if resource != nil {
		errs = append(errs, validateSelectors(resource, path.Child("resourceAttributes"))...)
	}
	return errs
}

// validateNoMetadata refuses metadata, except for what clients such as kubectl apply leave behind.
func validateNoMetadata(meta metav1.ObjectMeta) field.ErrorList {
	meta.ManagedFields = nil
	if !equality.Semantic.DeepEqual(metav1.ObjectMeta{}, meta) {
		return field.ErrorList{field.Invalid(field.NewPath("metadata"), meta, `must be empty`)}
	}
	return nil
}
