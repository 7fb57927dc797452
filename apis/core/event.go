package core

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/apis/resource"
)

var event = resource.Definition[*corev1.Event]{
	GroupVersion: corev1.SchemeGroupVersion, Served: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, Kind: "Event", Plural: "events",
	ShortNames:          []string{"ev"},
	Namespaced:          true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
