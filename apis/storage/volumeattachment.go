package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
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
	Validate: validateVolumeAttachment,
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		return append(validateVolumeAttachment(a), validate.Fixed(a.Spec, old.Spec, field.NewPath("spec"))...)
	},
	ValidateStatus: func(a, _ *storagev1.VolumeAttachment) field.ErrorList {
		errs := validateVolumeError(a.Status.AttachError, field.NewPath("status", "attachError"))
		errs = append(errs, validateVolumeError(a.Status.DetachError, field.NewPath("status", "detachError"))...)
		return append(errs, validateParameters(a.Status.AttachmentMetadata, field.NewPath("status", "attachmentMetadata"))...)
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
	errs := core.ValidateCSIDriverName(a.Spec.Attacher, path.Child("attacher"))
	errs = append(errs, validate.ObjectName(a.Spec.NodeName, path.Child("nodeName"), apivalidation.NameIsDNSSubdomain)...)
	source, sourcePath := a.Spec.Source, path.Child("source")
	pv := ptr.Deref(source.PersistentVolumeName, "")
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
	if e == nil || len(e.Message) <= maxVolumeError {
		return nil
	}
	return field.ErrorList{field.TooLong(path.Child("message"), "", maxVolumeError)}
}
