package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/apis/resource"
)

var clusterRole = resource.Definition[*rbacv1.ClusterRole]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "ClusterRole", Plural: "clusterroles",
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
