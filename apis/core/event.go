package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
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
	Kind: "Event", Plural: "events", ShortNames: []string{"ev"},
	Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	Validate: validateEvent,
	TTL:      func(*corev1.Event) time.Duration { return eventLife },
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

// validateEvent knows two generations of events: those with an eventTime come from clients of events.k8s.io and say more.
func validateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	involved := field.NewPath("involvedObject", "namespace")
	const mismatch = "does not match event.namespace"
	switch namespace := e.InvolvedObject.Namespace; {
	case !e.EventTime.IsZero() && namespace == "":
		if e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(involved, namespace, mismatch))
		}
	case namespace == "":
		if e.Namespace != "" && e.Namespace != metav1.NamespaceDefault {
			errs = append(errs, field.Invalid(involved, namespace, mismatch))
		}
	case namespace != e.Namespace:
		errs = append(errs, field.Invalid(involved, namespace, mismatch))
	}
	if e.EventTime.IsZero() {
		return append(errs, validate.DNSSubdomain(e.Namespace, field.NewPath("namespace"))...)
	}
	if e.ReportingController == "" {
		errs = append(errs, field.Required(field.NewPath("reportingController"), ""))
	} else {
		errs = append(errs, validate.QualifiedName(e.ReportingController, field.NewPath("reportingController"))...)
	}
	for _, text := range []pair{{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason}} {
		path := field.NewPath(text.name)
		switch {
		case text.value == "":
			errs = append(errs, field.Required(path, ""))
		case len(text.value) > maxEventText:
			errs = append(errs, field.Invalid(path, "", fmt.Sprintf("can have at most %d characters", maxEventText)))
		}
	}
	if len(e.Message) > maxEventMessage {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", maxEventMessage)))
	}
	return append(errs, validate.DNSSubdomain(e.Namespace, field.NewPath("namespace"))...)
}
