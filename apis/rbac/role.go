package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// role is a set of rights within a namespace.
var role = resource.Definition[*rbacv1.Role]{
	GroupVersion: rbacv1.SchemeGroupVersion, Kind: "Role", Plural: "roles",
	Namespaced: true, AllowCreateOnUpdate: true, AllowUnconditionalUpdate: true,
	ValidateName: validateName,
	Validate:     func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	Columns:      resource.CreatedAtColumns[*rbacv1.Role](),
}

// roleColumns prints the moment of creation, not the age.
