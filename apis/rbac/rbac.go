// Package rbac holds the rows of the API group rbac.
package rbac

import "keelson.dev/apis/resource"

// Resources lists the kinds of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		role.Resource(),
		roleBinding.Resource(),
		clusterRole.Resource(),
		clusterRoleBinding.Resource(),
	}
}
