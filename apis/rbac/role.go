package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/apis/resource"
)

var role = resource.Definition[*rbacv1.Role]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "Role", Plural: "roles",
	Namespaced:          true,
	AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
}
