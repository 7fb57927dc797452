package policy

import (
	policyv1 "k8s.io/api/policy/v1"

	"keelson.dev/apis/resource"
)

var podDisruptionBudget = resource.Definition[*policyv1.PodDisruptionBudget]{
	GroupVersion: policyv1.SchemeGroupVersion, Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets",
	ShortNames: []string{"pdb"},
	Namespaced: true, HasStatus: true,
}
