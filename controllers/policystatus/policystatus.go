// Package policystatus checks the types in the expressions of ValidatingAdmissionPolicies against the schemas of what they match,
// and reports what looks wrong in their status. The policy works all the same; its author is only told.
package policystatus

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	policies, err := env.Lister(e, &admissionregistrationv1.ValidatingAdmissionPolicy{})
	if err != nil {
		return err
	}
	checker := &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: e.Clientset.Discovery()},
		RestMapper:     e.Manager.GetRESTMapper(),
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		policy, ok := policies.Find("", req.Name)
		if !ok || policy.Status.ObservedGeneration >= policy.Generation {
			return ctrl.Result{}, nil
		}
		changed := policy.DeepCopy()
		changed.Status.ObservedGeneration = policy.Generation
		changed.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: checker.Check(policy)}
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, changed))
	}
	return e.Controller("validatingadmissionpolicy-status", workers, reconcile, env.For(&admissionregistrationv1.ValidatingAdmissionPolicy{}))
}
