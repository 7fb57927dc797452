package dra

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	apivalidate "k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// rules is a generated check of one type.
type rules[T any] func(ctx context.Context, op operation.Operation, path *field.Path, obj, old *T) field.ErrorList

// options are the features that tags ask for; the alpha ones of 1.37 are off.
var options = map[string]bool{"DRAPartitionableDevicesType": false}

func (check rules[T]) create(obj *T) field.ErrorList {
	return enforced(check(context.Background(), operation.Operation{Type: operation.Create, Options: options}, nil, obj, nil))
}

func (check rules[T]) update(obj, old *T) field.ErrorList {
	return enforced(check(context.Background(), operation.Operation{Type: operation.Update, Options: options}, nil, obj, old))
}

func (check rules[T]) updateStatus(obj, old *T) field.ErrorList {
	op := operation.Operation{Type: operation.Update, Options: options, Request: operation.Request{Subresources: []string{"status"}}}
	return enforced(check(context.Background(), op, nil, obj, old))
}

// enforced drops the errors of rules that upstream only tries out yet.
func enforced(errs field.ErrorList) field.ErrorList {
	return apivalidate.FilterEnforcedDeclarativeErrors(context.Background(), errs, true)
}
