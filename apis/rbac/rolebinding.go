package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/apis/resource"
)

var roleBinding = resource.Definition[*rbacv1.RoleBinding]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "RoleBinding", Plural: "rolebindings",
	Namespaced:          true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
