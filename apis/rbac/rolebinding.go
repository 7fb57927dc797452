package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// roleBinding grants a role, within a namespace.
var roleBinding = resource.Definition[*rbacv1.RoleBinding]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "RoleBinding", Plural: "rolebindings",
	Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	ValidateName: validateName,
	Default:      func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(b *rbacv1.RoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
	},
	ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
		return append(validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole"), validateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
	},
	Columns: bindingColumns("roleBinding", rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"],
		func(b *rbacv1.RoleBinding) rbacv1.RoleRef { return b.RoleRef },
		func(b *rbacv1.RoleBinding) []rbacv1.Subject { return b.Subjects }),
}
