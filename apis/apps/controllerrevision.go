package apps

import (
	"bytes"
	"encoding/json"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// controllerRevision is one version of a StatefulSet's or DaemonSet's template, kept for rollbacks.
var controllerRevision = resource.Definition[*appsv1.ControllerRevision]{
	GroupVersion: groupVersion, Kind: "ControllerRevision", Plural: "controllerrevisions",
	Namespaced: true, AllowUnconditionalUpdate: true,
	Validate: validateControllerRevision,
	ValidateUpdate: func(revision, old *appsv1.ControllerRevision) field.ErrorList {
		errs := validate.Nonnegative(revision.Revision, field.NewPath("revision"))
		return append(errs, validate.Immutable(revision.Data, old.Data, field.NewPath("data"))...)
	},
	Columns: resource.Columns(
		resource.Column[*appsv1.ControllerRevision]{Name: "Controller", Description: "Controller of the object", Get: controllerCell},
		resource.Column[*appsv1.ControllerRevision]{
			Name: "Revision", Description: appsv1.ControllerRevision{}.SwaggerDoc()["revision"],
			Get: func(r *appsv1.ControllerRevision) any { return r.Revision },
		},
	),
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validate.Nonnegative(r.Revision, field.NewPath("revision"))
	data := field.NewPath("data")
	raw := bytes.TrimSpace(r.Data.Raw)
	switch {
	case r.Data.Object != nil:
	case len(raw) == 0 || bytes.Equal(raw, []byte("null")):
		errs = append(errs, field.Required(data, "data is mandatory"))
	default:
		var object any
		if err := json.Unmarshal(raw, &object); err != nil {
			errs = append(errs, field.Invalid(data, "<value omitted>", "error parsing data: "+err.Error()))
		} else if _, ok := object.(map[string]any); !ok {
			errs = append(errs, field.Required(data, "data must be a valid JSON object"))
		}
	}
	return errs
}

func controllerCell(r *appsv1.ControllerRevision) any {
	owner := metav1.GetControllerOf(r)
	if owner == nil {
		return "<none>"
	}
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return "<none>"
	}
	return strings.ToLower(gv.WithKind(owner.Kind).GroupKind().String()) + "/" + owner.Name
}
