package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/apis/resource"
)

var clusterRoleBinding = resource.Definition[*rbacv1.ClusterRoleBinding]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "ClusterRoleBinding", Plural: "clusterrolebindings",
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
