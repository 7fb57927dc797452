// Package validate holds the checks that several kinds share: names, numbers, labels, quantities, addresses, node selectors and
// tolerations. Every function is pure, takes the path of the value it looks at and returns what is wrong with it, worded as
// clients of Kubernetes know it. The rules of one kind live with the kind.
package validate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Wordings that several kinds share.
const (
	NegativeMessage    = apivalidation.IsNegativeErrorMsg
	NotPositiveMessage = "must be greater than zero"
	NotIntegerMessage  = "must be an integer"
	ImmutableMessage   = apivalidation.FieldImmutableErrorMsg
	FileModeMessage    = "must be a number between 0 and 0777 (octal), both inclusive"
)

// Messages turns what a string check returned into errors for one value.
func Messages(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, message := range messages {
		errs = append(errs, field.Invalid(path, value, message))
	}
	return errs
}

// Nonnegative demands a value of at least zero.
func Nonnegative[N ~int | ~int32 | ~int64](value N, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(value), path)
}

// NonnegativePtr is Nonnegative for an optional value.
func NonnegativePtr[N ~int32 | ~int64](value *N, path *field.Path) field.ErrorList {
	if value == nil {
		return nil
	}
	return Nonnegative(*value, path)
}

// Positive demands a value above zero.
func Positive[N ~int | ~int32 | ~int64](value N, path *field.Path) field.ErrorList {
	if value > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, NotPositiveMessage).WithOrigin("minimum")}
}

// Immutable demands that a field did not change.
func Immutable(value, old any, path *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

// Fixed is Immutable for fields whose rule is declared in upstream's types: the value is not repeated.
func Fixed(value, old any, path *field.Path) field.ErrorList {
	if Equal(value, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, nil, ImmutableMessage)}
}

// Equal compares API values: quantities by amount, nil and empty lists as the same.
func Equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }

// OneOf demands one of the supported values, which must be sorted as they shall be printed.
func OneOf[S ~string](value S, path *field.Path, supported ...S) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// RequiredOneOf is OneOf for a field that must be set.
func RequiredOneOf[S ~string](value S, path *field.Path, supported ...S) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return OneOf(value, path, supported...)
}

// OptionalOneOf is OneOf for a pointer; nil is fine.
func OptionalOneOf[S ~string](value *S, path *field.Path, supported ...S) field.ErrorList {
	if value == nil {
		return nil
	}
	return OneOf(*value, path, supported...)
}

// DNSLabel demands an RFC 1123 label.
func DNSLabel(value string, path *field.Path) field.ErrorList {
	return withOrigin(Messages(path, value, validation.IsDNS1123Label(value)), "format=k8s-short-name")
}

// DNSSubdomain demands an RFC 1123 subdomain.
func DNSSubdomain(value string, path *field.Path) field.ErrorList {
	return withOrigin(Messages(path, value, validation.IsDNS1123Subdomain(value)), "format=k8s-long-name")
}

// EnvVarName demands a name for an environment variable; nearly every printable ASCII character is allowed.
func EnvVarName(value string, path *field.Path) field.ErrorList {
	return Messages(path, value, validation.IsRelaxedEnvVarName(value))
}

// ConfigMapKey demands a key that ConfigMaps and Secrets accept.
func ConfigMapKey(value string, path *field.Path) field.ErrorList {
	return Messages(path, value, validation.IsConfigMapKey(value))
}

// QualifiedName demands a name with an optional DNS prefix, like a label key.
func QualifiedName(value string, path *field.Path) field.ErrorList {
	return Messages(path, value, validation.IsQualifiedName(value))
}

// FinalizerName demands a domain before the names of finalizers that are not Kubernetes' own.
func FinalizerName(name string, path *field.Path) field.ErrorList {
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	if strings.Contains(name, "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

// ObjectName checks a reference to another object by the given rule, for example apivalidation.NameIsDNSSubdomain.
func ObjectName(value string, path *field.Path, rule func(string, bool) []string) field.ErrorList {
	return Messages(path, value, rule(value, false))
}

// FileMode demands permission bits.
func FileMode(mode *int32, path *field.Path) field.ErrorList {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *mode, FileModeMessage)}
}

// PositiveIntOrPercent demands a number of at least zero or a percentage.
func PositiveIntOrPercent(value intstr.IntOrString, path *field.Path) field.ErrorList {
	switch value.Type {
	case intstr.String:
		return Messages(path, value, validation.IsValidPercent(value.StrVal))
	case intstr.Int:
		return Nonnegative(value.IntValue(), path)
	}
	return field.ErrorList{field.Invalid(path, value, "must be an integer or percentage (e.g '5%%')")}
}

// Percent returns the number before the percent sign.
func Percent(value intstr.IntOrString) (int, bool) {
	if value.Type != intstr.String || len(validation.IsValidPercent(value.StrVal)) != 0 {
		return 0, false
	}
	digits := intstr.Parse(strings.TrimSuffix(value.StrVal, "%"))
	return digits.IntValue(), digits.Type == intstr.Int
}

// AtMost100Percent rejects percentages above 100.
func AtMost100Percent(value intstr.IntOrString, path *field.Path) field.ErrorList {
	if percent, ok := Percent(value); !ok || percent <= 100 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, "must not be greater than 100%")}
}

func withOrigin(errs field.ErrorList, origin string) field.ErrorList { return errs.WithOrigin(origin) }
