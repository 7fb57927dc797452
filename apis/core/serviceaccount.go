package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/apis/resource"
)

// serviceAccount is an identity for pods.
var serviceAccount = resource.Definition[*corev1.ServiceAccount]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "ServiceAccount", Plural: "serviceaccounts", ShortNames: []string{"sa"},
	Namespaced: true, ReturnDeleted: true,
	Prepare: func(sa, _ *corev1.ServiceAccount) {
		for i, ref := range sa.Secrets { // of a reference only the name means something
			sa.Secrets[i] = corev1.ObjectReference{Name: ref.Name}
		}
	},
	Warn: func(sa, old *corev1.ServiceAccount) []string {
		if _, annotated := sa.Annotations[mountableSecretsAnnotation]; annotated && old == nil {
			return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
				mountableSecretsAnnotation)}
		}
		return nil
	},
}

const mountableSecretsAnnotation = "kubernetes.io/enforce-mountable-secrets"
