// Package devicecel compiles the CEL expressions that select devices (KEP-4381), as the API server checks them on write.
package devicecel

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"keelson.dev/internal/features"
)

// Validate compiles an expression that is to be stored at path. It must yield a truth value, and its estimated cost must not exceed
// maxCost, in the units of CEL's estimate.
func Validate(expression string, maxCost uint64, path *field.Path) field.ErrorList {
	result := dracel.GetCompiler(dracel.Features{
		EnableConsumableCapacity: features.Enabled("DRAConsumableCapacity"), EnableListTypeAttributes: features.Enabled("DRAListTypeAttributes"),
	}).CompileCELExpression(expression, dracel.Options{EnvType: new(environment.NewExpressions)})
	switch failure := result.Error; {
	case failure == nil && result.MaxCost > maxCost:
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	case failure == nil:
		return nil
	case failure.Type == apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, expression, failure.Detail)}
	case failure.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, failure.Detail)}
	default:
		return field.ErrorList{field.InternalError(path, failure)}
	}
}
