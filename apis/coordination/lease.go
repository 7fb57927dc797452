package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// lease is a heartbeat of a node, or the right to be the active one of several.
var lease = resource.Definition[*coordinationv1.Lease]{
	GroupVersion: coordinationv1.SchemeGroupVersion, Kind: "Lease", NameOnce: true, AnyFinalizer: true, Plural: "leases",
	Namespaced: true, AllowCreateOnUpdate: true,
	Prepare:  dropStrategy,
	Validate: validateLease,
	Columns: resource.Columns(resource.Column[*coordinationv1.Lease]{
		Name: "Holder", Description: coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"],
		Get: func(l *coordinationv1.Lease) any { return ptr.Deref(l.Spec.HolderIdentity, "") },
	}),
}

// dropStrategy drops the fields of coordinated leader election, which is off by default, unless they are stored already.
func dropStrategy(l, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	spec, path := &l.Spec, field.NewPath("spec")
	if spec.LeaseDurationSeconds != nil && *spec.LeaseDurationSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *spec.LeaseDurationSeconds, "must be greater than 0"))
	}
	if spec.LeaseTransitions != nil && *spec.LeaseTransitions < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *spec.LeaseTransitions, "must be greater than or equal to 0"))
	}
	if spec.Strategy != nil {
		errs = append(errs, validateStrategy(*spec.Strategy, path.Child("strategy"))...)
	}
	if ptr.Deref(spec.PreferredHolder, "") != "" && ptr.Deref(spec.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified when `strategy` is defined"))
	}
	return errs
}

// validateStrategy takes the strategies of Kubernetes and, with a domain before them, those of others.
func validateStrategy(strategy coordinationv1.CoordinatedLeaseStrategy, path *field.Path) field.ErrorList {
	if strategy == coordinationv1.OldestEmulationVersion {
		return nil
	}
	errs := validate.QualifiedName(string(strategy), path)
	if len(errs) == 0 {
		for _, r := range strategy {
			if r == '/' {
				return nil
			}
		}
		errs = append(errs, field.NotSupported(path, strategy, []coordinationv1.CoordinatedLeaseStrategy{coordinationv1.OldestEmulationVersion}))
	}
	return errs
}
