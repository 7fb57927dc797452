// Package admissionpolicy checks the types of the expressions in ValidatingAdmissionPolicies and reports what looks wrong in their
// status. It changes nothing about how they are enforced.
package admissionpolicy

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
		if !ok || policy.Status.TypeChecking != nil && policy.Status.ObservedGeneration == policy.Generation {
			return ctrl.Result{}, nil
		}
		changed := policy.DeepCopy()
		changed.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: checker.Check(policy.DeepCopy())}
		changed.Status.ObservedGeneration = policy.Generation
		if equality.Semantic.DeepEqual(changed.Status, policy.Status) && policy.Status.TypeChecking != nil {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, changed))
	}
	return e.Controller("validatingadmissionpolicy-status", workers, reconcile, env.For(&admissionregistrationv1.ValidatingAdmissionPolicy{}))
}
