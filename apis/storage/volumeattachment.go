package storage

import (
	"math"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// volumeAttachment asks a CSI driver to attach a volume to a node.
var volumeAttachment = resource.Definition[*storagev1.VolumeAttachment]{
	GroupVersion: storagev1.SchemeGroupVersion, Kind: "VolumeAttachment", Plural: "volumeattachments",
	HasStatus: true, StatusFixes: []string{"metadata"}, ReturnDeleted: true, GenerationOf: resource.NoGeneration[*storagev1.VolumeAttachment],
	Validate: func(a *storagev1.VolumeAttachment) field.ErrorList {
		return append(validateAttacher(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateVolumeAttachment(a)...)
	},
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		errs := append(core.ValidateCSIDriverName(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateVolumeAttachment(a)...)
		return append(errs, validate.Fixed(a.Spec, old.Spec, field.NewPath("spec"))...)
	},
	ValidateStatus: func(a, _ *storagev1.VolumeAttachment) field.ErrorList {
		errs := validateVolumeError(a.Status.AttachError, field.NewPath("status", "attachError"))
		errs = append(errs, validateVolumeError(a.Status.DetachError, field.NewPath("status", "detachError"))...)
		return append(errs, validateMetadata(a.Status.AttachmentMetadata, field.NewPath("status", "attachmentMetadata"))...)
	},
	Columns: resource.Columns([]resource.Column[*storagev1.VolumeAttachment]{
		{Name: "Attacher", Format: "name", Description: attachmentDoc("attacher"), Get: func(a *storagev1.VolumeAttachment) any { return a.Spec.Attacher }},
		{Name: "PV", Description: storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"], Get: func(a *storagev1.VolumeAttachment) any {
			return ptr.Deref(a.Spec.Source.PersistentVolumeName, "")
		}},
		{Name: "Node", Description: attachmentDoc("nodeName"), Get: func(a *storagev1.VolumeAttachment) any { return a.Spec.NodeName }},
		{Name: "Attached", Type: "boolean", Description: storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"], Get: func(a *storagev1.VolumeAttachment) any {
			return a.Status.Attached
		}},
	}...),
}

func attachmentDoc(name string) string { return storagev1.VolumeAttachmentSpec{}.SwaggerDoc()[name] }

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	errs = append(errs, validate.ObjectName(a.Spec.NodeName, path.Child("nodeName"), apivalidation.NameIsDNSSubdomain)...)
	source, sourcePath := a.Spec.Source, path.Child("source")
	pv := ptr.Deref(source.PersistentVolumeName, "")
	if source.PersistentVolumeName != nil && pv == "" {
		at := sourcePath.Child("persistentVolumeName")
		return append(append(errs, field.Required(at, "must specify non empty persistentVolumeName")), validate.ObjectName(pv, at, apivalidation.NameIsDNSSubdomain)...)
	}
	switch {
	case source.InlineVolumeSpec == nil && pv == "":
		errs = append(errs, field.Required(sourcePath, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case source.InlineVolumeSpec != nil && pv != "":
		errs = append(errs, field.Forbidden(sourcePath, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case pv != "":
		errs = append(errs, validate.ObjectName(pv, sourcePath.Child("persistentVolumeName"), apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

const maxVolumeError = 1024

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e != nil && len(e.Message) > maxVolumeError {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxVolumeError))
	}
	if e != nil && e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

// validateAttacher checks the name of a new attachment's driver.
func validateAttacher(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > 63 {
		errs = append(errs, field.TooLongCharacters(path, "", 63))
	}
	return append(errs, validate.Messages(path, name, content.IsDNS1123SubdomainCaseless(name))...) //nolint:staticcheck // drivers have had such names since before
}

// validateMetadata limits what a driver tells of an attachment; keys may be empty.
func validateMetadata(metadata map[string]string, path *field.Path) field.ErrorList {
	size := 0
	for key, value := range metadata {
		size += len(key) + len(value)
	}
	if size > maxParametersSize {
		return field.ErrorList{field.TooLong(path, "", maxParametersSize)}
	}
	return nil
}
