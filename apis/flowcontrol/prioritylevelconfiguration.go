package flowcontrol

import (
	"fmt"
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// priorityLevelConfiguration says how much of the server a class of requests may use. The server itself restores the mandatory
// levels and schemas when somebody changes them.
var priorityLevelConfiguration = resource.Definition[*flowcontrolv1.PriorityLevelConfiguration]{
	GroupVersion: flowcontrolv1.SchemeGroupVersion, Kind: "PriorityLevelConfiguration", Plural: "prioritylevelconfigurations", HasStatus: true, StatusFixes: []string{"metadata"},
	Default: defaultPriorityLevel, Validate: validatePriorityLevel,
	ValidateStatus: func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
		return uniqueConditions(p.Status.Conditions, func(c flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
	},
	Columns: resource.Columns([]resource.Column[*flowcontrolv1.PriorityLevelConfiguration]{
		{Name: "Type", Description: flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"], Get: func(p *flowcontrolv1.PriorityLevelConfiguration) any {
			return string(p.Spec.Type)
		}},
		{Name: "NominalConcurrencyShares", Description: flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"], Get: func(p *flowcontrolv1.PriorityLevelConfiguration) any {
			if p.Spec.Limited == nil {
				return "<none>"
			}
			return int64(ptr.Deref(p.Spec.Limited.NominalConcurrencyShares, 0))
		}},
		{Name: "Queues", Description: queueDoc("queues"), Get: ofQueue(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues })},
		{Name: "HandSize", Description: queueDoc("handSize"), Get: ofQueue(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize })},
		{Name: "QueueLengthLimit", Description: queueDoc("queueLengthLimit"), Get: ofQueue(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit })},
	}...),
}

func queueDoc(name string) string { return flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()[name] }

func ofQueue(get func(*flowcontrolv1.QueuingConfiguration) int32) func(*flowcontrolv1.PriorityLevelConfiguration) any {
	return func(p *flowcontrolv1.PriorityLevelConfiguration) any {
		if p.Spec.Limited == nil || p.Spec.Limited.LimitResponse.Queuing == nil {
			return "<none>"
		}
		return int64(get(p.Spec.Limited.LimitResponse.Queuing))
	}
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if exempt := p.Spec.Exempt; exempt != nil {
		resource.SetDefaultPtr(&exempt.NominalConcurrencyShares, 0)
		resource.SetDefaultPtr(&exempt.LendablePercent, 0)
	}
	limited := p.Spec.Limited
	if limited == nil {
		return
	}
	resource.SetDefaultPtr(&limited.NominalConcurrencyShares, 30)
	resource.SetDefaultPtr(&limited.LendablePercent, 0)
	if q := limited.LimitResponse.Queuing; q != nil {
		resource.SetDefault(&q.Queues, 64)
		resource.SetDefault(&q.HandSize, 8)
		resource.SetDefault(&q.QueueLengthLimit, 50)
	}
}

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	spec, path := &p.Spec, field.NewPath("spec")
	limited, exempt := spec.Type == flowcontrolv1.PriorityLevelEnablementLimited, spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	errs := validate.RequiredOneOf(spec.Type, path.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	switch mandatory := p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt; {
	case mandatory && limited:
		errs = append(errs, field.Invalid(path.Child("type"), spec.Type, "must be 'Exempt' if `name` is 'exempt'"))
	case !mandatory && exempt:
		errs = append(errs, field.Invalid(path.Child("type"), spec.Type, "must be 'Limited' if `name` is not 'exempt'"))
	}
	switch {
	case spec.Exempt != nil && !exempt:
		errs = append(errs, field.Forbidden(path.Child("exempt"), ""))
	case spec.Exempt != nil:
		errs = append(errs, validateShares(spec.Exempt.NominalConcurrencyShares, spec.Exempt.LendablePercent, path.Child("exempt"))...)
	}
	switch {
	case spec.Limited == nil && limited:
		errs = append(errs, field.Required(path.Child("limited"), ""))
	case spec.Limited != nil && !limited:
		errs = append(errs, field.Forbidden(path.Child("limited"), ""))
	case limited:
		errs = append(errs, validateLimited(spec.Limited, path.Child("limited"))...)
	}
	return errs
}

func validateShares(shares, lendable *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, path)
	if l.BorrowingLimitPercent != nil && *l.BorrowingLimitPercent < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *l.BorrowingLimitPercent, "if specified, must be a non-negative integer"))
	}
	response, responsePath := &l.LimitResponse, path.Child("limitResponse")
	queuing := responsePath.Child("queuing")
	errs = append(errs, validate.RequiredOneOf(response.Type, responsePath.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	switch queues := response.Type == flowcontrolv1.LimitResponseTypeQueue; {
	case response.Queuing == nil && queues:
		errs = append(errs, field.Required(queuing, ""))
	case response.Queuing != nil && !queues:
		errs = append(errs, field.Forbidden(queuing, ""))
	case queues:
		errs = append(errs, validateQueuing(response.Queuing, queuing)...)
	}
	return errs
}

const (
	maxQueues   = 10 * 1000 * 1000 // what shuffle sharding can deal into
	maxHashBits = 60               // what it has of a hash to deal by
)

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	switch {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case math.Ceil(math.Log2(float64(q.Queues))*float64(q.HandSize)) > maxHashBits:
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize,
			fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHashBits)))
	}
	return errs
}
