package resource

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Columns puts the columns that every kind has, Name and Age, around those that follow; wide ones (Priority above 0) come after Age.
func Columns[T Object](columns ...Column[T]) []Column[T] {
	firstWide := slices.IndexFunc(columns, func(c Column[T]) bool { return c.Priority > 0 })
	if firstWide < 0 {
		firstWide = len(columns)
	}
	return slices.Concat([]Column[T]{NameColumn[T]()}, columns[:firstWide], []Column[T]{AgeColumn[T]()}, columns[firstWide:])
}

// CreatedAtColumns are what the library prints of kinds without columns of their own.
func CreatedAtColumns[T Object]() []Column[T] {
	return []Column[T]{NameColumn[T](), {
		Name: "Created At", Type: "date", Description: metadataDoc("creationTimestamp"),
		Get: func(obj T) any { return obj.GetCreationTimestamp().UTC().Format(time.RFC3339) },
	}}
}

// NameColumn is the first column of every kind.
func NameColumn[T Object]() Column[T] {
	return Column[T]{Name: "Name", Format: "name", Description: metadataDoc("name"), Get: func(obj T) any { return obj.GetName() }}
}

// AgeColumn tells how long ago the object was created.
func AgeColumn[T Object]() Column[T] {
	return Column[T]{
		Name: "Age", Description: metadataDoc("creationTimestamp"),
		Get: func(obj T) any { return Age(obj.GetCreationTimestamp()) },
	}
}

// Age prints the time since t as kubectl does, "<unknown>" for none.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// OrNone joins values with commas and prints "<none>" for an empty list.
func OrNone(values []string) string {
	if len(values) == 0 {
		return "<none>"
	}
	return strings.Join(values, ",")
}

func metadataDoc(name string) string {
	return metav1.ObjectMeta{}.SwaggerDoc()[name]
}
