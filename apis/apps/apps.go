// Package apps holds the rows of the API group apps: the controllers that keep sets of pods running.
package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apis/resource"
)

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		deployment.Resource(),
		replicaSet.Resource(),
		statefulSet.Resource(),
		daemonSet.Resource(),
		controllerRevision.Resource(),
	}
}

var groupVersion = appsv1.SchemeGroupVersion

// selectorString is the selector as /scale reports it; an invalid one has been rejected before it could be stored.
func selectorString(selector *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return ""
	}
	return parsed.String()
}
