package subresources

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"keelson.dev/apiserver/registry"
)

// HangRequests makes new certificate requests say who asked: spec.username, uid, groups and extra are the server's to fill in
// (API field docs of certificates.k8s.io/v1).
func HangRequests(requests *registry.Kind) {
	requests.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		spec := &obj.(*certificatesv1.CertificateSigningRequest).Spec
		spec.Username, spec.UID, spec.Groups, spec.Extra = "", "", nil, nil
		if user, ok := request.UserFrom(ctx); ok {
			spec.Username, spec.UID, spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
			for key, values := range user.GetExtra() {
				if spec.Extra == nil {
					spec.Extra = map[string]certificatesv1.ExtraValue{}
				}
				spec.Extra[key] = values
			}
		}
		return func(context.Context, bool) {}, nil
	}
}
