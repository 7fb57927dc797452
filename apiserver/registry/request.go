package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"keelson.dev/apis/resource"
)

// groupVersionOf is the version that the request came for, the stored one outside of a request.
func groupVersionOf(ctx context.Context, row *resource.Resource) schema.GroupVersion {
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok {
		return schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	}
	return row.GroupVersion
}
