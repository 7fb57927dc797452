package resource

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (d *Definition[T]) singular() string {
	if d.Singular != "" {
		return d.Singular
	}
	return strings.ToLower(d.Kind)
}

// typed returns obj as T, and the zero T for nil: hooks see a nil old object on create.
func typed[T Object](obj Object) T {
	if obj == nil {
		var zero T
		return zero
	}
	return obj.(T)
}

func eraseOne[T Object](f func(T)) func(Object) {
	if f == nil {
		return nil
	}
	return func(obj Object) { f(typed[T](obj)) }
}

func eraseChange[T Object](f func(obj, old T)) func(obj, old Object) {
	if f == nil {
		return nil
	}
	return func(obj, old Object) { f(typed[T](obj), typed[T](old)) }
}

func eraseOrder[T Object](f func(a, b T) int) func(a, b Object) int {
	if f == nil {
		return nil
	}
	return func(a, b Object) int { return f(a.(T), b.(T)) }
}

func eraseGet[T Object, R any](f func(T) R) func(Object) R {
	if f == nil {
		return nil
	}
	return func(obj Object) R { return f(typed[T](obj)) }
}

func eraseTwo[T Object, R any](f func(obj, old T) R) func(obj, old Object) R {
	if f == nil {
		return nil
	}
	return func(obj, old Object) R { return f(typed[T](obj), typed[T](old)) }
}

func eraseServed[T Object](checks map[schema.GroupVersion]func(obj, old T) field.ErrorList) map[schema.GroupVersion]func(obj, old Object) field.ErrorList {
	erased := make(map[schema.GroupVersion]func(obj, old Object) field.ErrorList, len(checks))
	for version, check := range checks {
		erased[version] = eraseTwo(check)
	}
	return erased
}

func eraseGrace[T Object](f func(T, *metav1.DeleteOptions) bool) func(Object, *metav1.DeleteOptions) bool {
	if f == nil {
		return nil
	}
	return func(obj Object, options *metav1.DeleteOptions) bool { return f(typed[T](obj), options) }
}

func eraseColumns[T Object](columns []Column[T]) []Column[Object] {
	var erased []Column[Object]
	for _, c := range columns {
		erased = append(erased, Column[Object]{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
			Get: eraseGet(c.Get),
		})
	}
	return erased
}

func eraseFields[T Object](fields map[string]func(T) string) map[string]func(Object) string {
	if fields == nil {
		return nil
	}
	erased := make(map[string]func(Object) string, len(fields))
	for name, get := range fields {
		erased[name] = eraseGet(get)
	}
	return erased
}

func eraseScale[T Object](s *Scale[T]) *Scale[Object] {
	if s == nil {
		return nil
	}
	return &Scale[Object]{
		Get: func(obj Object) (int32, int32, string) { return s.Get(typed[T](obj)) },
		Set: func(obj Object, replicas int32) { s.Set(typed[T](obj), replicas) },
	}
}
