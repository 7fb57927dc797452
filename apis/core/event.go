package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// eventLife is how long events are kept.
const eventLife = time.Hour

// event tells what happened to an object. It is one stored kind in two groups: see event_conversion.go.
var event = resource.Definition[*corev1.Event]{
	GroupVersion: corev1.SchemeGroupVersion, Served: []schema.GroupVersion{eventsv1.SchemeGroupVersion},
	Kind: "Event", NameOnce: true, AnyFinalizer: true, Plural: "events", ShortNames: []string{"ev"},
	Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	Validate:       validateEvent,
	ValidateServed: map[schema.GroupVersion]func(e, old *corev1.Event) field.ErrorList{eventsv1.SchemeGroupVersion: validateNewEvent},
	ValidateName:   func(string, bool) []string { return nil }, // core/v1 has never looked at it
	TTL:            func(*corev1.Event) time.Duration { return eventLife },
	Fields: map[string]func(*corev1.Event) string{
		"involvedObject.kind":            func(e *corev1.Event) string { return e.InvolvedObject.Kind },
		"involvedObject.namespace":       func(e *corev1.Event) string { return e.InvolvedObject.Namespace },
		"involvedObject.name":            func(e *corev1.Event) string { return e.InvolvedObject.Name },
		"involvedObject.uid":             func(e *corev1.Event) string { return string(e.InvolvedObject.UID) },
		"involvedObject.apiVersion":      func(e *corev1.Event) string { return e.InvolvedObject.APIVersion },
		"involvedObject.resourceVersion": func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion },
		"involvedObject.fieldPath":       func(e *corev1.Event) string { return e.InvolvedObject.FieldPath },
		"reason":                         func(e *corev1.Event) string { return e.Reason },
		"reportingComponent":             func(e *corev1.Event) string { return e.ReportingController },
		"type":                           func(e *corev1.Event) string { return e.Type },
		"source": func(e *corev1.Event) string {
			if e.Source.Component != "" {
				return e.Source.Component
			}
			return e.ReportingController
		},
	},
	Columns: []resource.Column[*corev1.Event]{
		{Name: "Last Seen", Description: eventDoc("lastTimestamp"), Get: func(e *corev1.Event) any { return lastSeen(e) }},
		{Name: "Type", Description: eventDoc("type"), Get: func(e *corev1.Event) any { return e.Type }},
		{Name: "Reason", Description: eventDoc("reason"), Get: func(e *corev1.Event) any { return e.Reason }},
		{Name: "Object", Description: eventDoc("involvedObject"), Get: func(e *corev1.Event) any {
			if e.InvolvedObject.Name == "" {
				return strings.ToLower(e.InvolvedObject.Kind)
			}
			return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
		}},
		{Name: "Subobject", Priority: 1, Description: corev1.ObjectReference{}.SwaggerDoc()["fieldPath"], Get: func(e *corev1.Event) any {
			return e.InvolvedObject.FieldPath
		}},
		{Name: "Source", Priority: 1, Description: eventDoc("source"), Get: func(e *corev1.Event) any { return eventSource(e) }},
		{Name: "Message", Description: eventDoc("message"), Get: func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }},
		{Name: "First Seen", Priority: 1, Description: eventDoc("firstTimestamp"), Get: func(e *corev1.Event) any { return firstSeen(e) }},
		{Name: "Count", Priority: 1, Description: eventDoc("count"), Get: func(e *corev1.Event) any { return eventCount(e) }},
		{
			Name: "Name", Priority: 1, Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
			Get: func(e *corev1.Event) any { return e.Name },
		},
	},
}

func eventDoc(name string) string { return corev1.Event{}.SwaggerDoc()[name] }

func firstSeen(e *corev1.Event) string {
	if e.FirstTimestamp.IsZero() {
		return resource.Age(metav1.NewTime(e.EventTime.Time))
	}
	return resource.Age(e.FirstTimestamp)
}

func lastSeen(e *corev1.Event) string {
	switch {
	case e.Series != nil:
		return resource.Age(metav1.NewTime(e.Series.LastObservedTime.Time))
	case e.LastTimestamp.IsZero():
		return firstSeen(e)
	}
	return resource.Age(e.LastTimestamp)
}

func eventCount(e *corev1.Event) int64 {
	switch {
	case e.Series != nil:
		return int64(e.Series.Count)
	case e.Count == 0: // a single event of the new API has no count
		return 1
	}
	return int64(e.Count)
}

func eventSource(e *corev1.Event) string {
	component, instance := e.Source.Component, e.Source.Host
	if component == "" && instance == "" {
		component, instance = e.ReportingController, e.ReportingInstance
	}
	if instance == "" {
		return component
	}
	return component + ", " + instance
}

const (
	maxEventText    = 128 // characters of action, reason and reporting instance
	maxEventMessage = 1024
)

// validateEvent is what clients of core/v1 are held to.
func validateEvent(e *corev1.Event) field.ErrorList { return validateAnyEvent(e, "reportingComponent") }

// validateAnyEvent knows two generations of events: those with an eventTime come from clients of events.k8s.io and say more.
func validateAnyEvent(e *corev1.Event, controller string) field.ErrorList {
	var errs field.ErrorList
	namespace := e.InvolvedObject.Namespace
	mismatch := field.Invalid(field.NewPath("involvedObject", "namespace"), namespace, "does not match event.namespace")
	if e.EventTime.IsZero() {
		if namespace == "" && e.Namespace != "" && e.Namespace != metav1.NamespaceDefault || namespace != "" && namespace != e.Namespace {
			errs = append(errs, mismatch)
		}
		return errs
	}
	if namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, mismatch)
	}
	errs = append(errs, requireStrings(nil, pair{controller, e.ReportingController})...)
	errs = append(errs, validate.QualifiedName(e.ReportingController, field.NewPath(controller))...)
	for _, text := range []pair{{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason}} {
		errs = append(errs, requireStrings(nil, text)...)
		errs = append(errs, validateText(text, maxEventText)...)
	}
	return append(errs, validateText(pair{"message", e.Message}, maxEventMessage)...)
}

func validateText(text pair, longest int) field.ErrorList {
	if len(text.value) <= longest {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(text.name), "", fmt.Sprintf("can have at most %d characters", longest))}
}

// validateNewEvent is what clients of events.k8s.io/v1 are held to: none of the fields of old, and nothing but the series changes.
func validateNewEvent(e, old *corev1.Event) field.ErrorList {
	errs := validateAnyEvent(e, "reportingController")
	for i, name := range e.Finalizers {
		errs = append(errs, validate.FinalizerName(name, field.NewPath("metadata", "finalizers").Index(i))...)
	}
	if old != nil {
		if !validate.Equal(e.Series, old.Series) {
			errs = append(errs, validateSeries(e.Series)...)
		}
		return append(errs, validateEventUnchanged(e, old)...)
	}
	errs = append(errs, apivalidation.ValidateObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))...)
	errs = append(errs, validateSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	for _, former := range []presence{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()},
		{"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if former.set {
			errs = append(errs, field.Invalid(field.NewPath(former.name), "", "needs to be unset"))
		}
	}
	return errs
}

func validateSeries(series *corev1.EventSeries) field.ErrorList {
	var errs field.ErrorList
	if series != nil && series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if series != nil && series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

func validateEventUnchanged(e, old *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	for _, part := range []struct {
		name     string
		now, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"type", e.Type, old.Type},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, validate.Immutable(part.now, part.was, field.NewPath(part.name))...)
	}
	// Clients may have cut it to microseconds, which is all that JSON holds.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		errs = append(errs, validate.Immutable(e.EventTime, old.EventTime, field.NewPath("eventTime"))...)
	}
	return errs
}
