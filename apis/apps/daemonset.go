package apps

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/core"
	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// daemonSet keeps one pod on every node that it selects.
var daemonSet = resource.Definition[*appsv1.DaemonSet]{
	GroupVersion: groupVersion, Kind: "DaemonSet", NameOnce: true, Plural: "daemonsets",
	ShortNames: []string{"ds"}, Categories: []string{"all"},
	Namespaced: true, HasStatus: true, AllowUnconditionalUpdate: true,
	Default:  defaultDaemonSet,
	Prepare:  prepareDaemonSet,
	Validate: func(ds *appsv1.DaemonSet) field.ErrorList { return validateDaemonSetSpec(&ds.Spec, nil) },
	ValidateUpdate: func(ds, old *appsv1.DaemonSet) field.ErrorList {
		errs := validateDaemonSetSpec(&ds.Spec, &old.Spec)
		return append(errs, validate.Immutable(ds.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
	},
	ValidateStatus: validateDaemonSetStatus,
	PrepareStatus: func(ds, old *appsv1.DaemonSet) { // the count of templates is no annotation to write
		if ds.Annotations == nil {
			ds.Annotations = map[string]string{}
		}
		ds.Annotations[appsv1.DeprecatedTemplateGeneration] = old.Annotations[appsv1.DeprecatedTemplateGeneration]
	},
	Warn: func(ds, old *appsv1.DaemonSet) []string {
		path := field.NewPath("spec", "template")
		if old == nil {
			return core.PodTemplateWarnings(&ds.Spec.Template, nil, path)
		}
		if ds.Generation == old.Generation {
			return nil
		}
		return core.PodTemplateWarnings(&ds.Spec.Template, &old.Spec.Template, path)
	},
	Columns: resource.Columns(slices.Concat(
		[]resource.Column[*appsv1.DaemonSet]{
			{Name: "Desired", Type: "integer", Description: appsv1.DaemonSetStatus{}.SwaggerDoc()["desiredNumberScheduled"], Get: func(ds *appsv1.DaemonSet) any { return int64(ds.Status.DesiredNumberScheduled) }},
			{Name: "Current", Type: "integer", Description: appsv1.DaemonSetStatus{}.SwaggerDoc()["currentNumberScheduled"], Get: func(ds *appsv1.DaemonSet) any { return int64(ds.Status.CurrentNumberScheduled) }},
			{Name: "Ready", Type: "integer", Description: appsv1.DaemonSetStatus{}.SwaggerDoc()["numberReady"], Get: func(ds *appsv1.DaemonSet) any { return int64(ds.Status.NumberReady) }},
			{Name: "Up-to-date", Type: "integer", Description: appsv1.DaemonSetStatus{}.SwaggerDoc()["updatedNumberScheduled"], Get: func(ds *appsv1.DaemonSet) any { return int64(ds.Status.UpdatedNumberScheduled) }},
			{Name: "Available", Type: "integer", Description: appsv1.DaemonSetStatus{}.SwaggerDoc()["numberAvailable"], Get: func(ds *appsv1.DaemonSet) any { return int64(ds.Status.NumberAvailable) }},
			{Name: "Node Selector", Description: corev1.PodSpec{}.SwaggerDoc()["nodeSelector"], Get: func(ds *appsv1.DaemonSet) any { return labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector) }},
		},
		core.TemplateColumns(appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"],
			func(ds *appsv1.DaemonSet) *corev1.PodSpec { return &ds.Spec.Template.Spec },
			func(ds *appsv1.DaemonSet) string { return metav1.FormatLabelSelector(ds.Spec.Selector) }),
	)...),
}

func defaultDaemonSet(ds *appsv1.DaemonSet) {
	core.DefaultPodTemplateSpec(&ds.Spec.Template)
	resource.SetDefaultPtr(&ds.Spec.RevisionHistoryLimit, 10)
	if _, ok := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; !ok { // it is there whenever the object is shown
		if ds.Annotations == nil {
			ds.Annotations = map[string]string{}
		}
		ds.Annotations[appsv1.DeprecatedTemplateGeneration] = "0"
	}
	strategy := &ds.Spec.UpdateStrategy
	resource.SetDefault(&strategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		resource.SetDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		resource.SetDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	if strategy.RollingUpdate != nil {
		resource.SetDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(0))
		resource.SetDefaultPtr(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// prepareDaemonSet counts versions of the template in an annotation, which pods of old controllers carry as a label.
func prepareDaemonSet(ds, old *appsv1.DaemonSet) {
	core.PreparePodTemplate(&ds.Spec.Template)
	generation := max(templateGeneration(ds), 1)
	if old != nil {
		generation = max(templateGeneration(old), 1)
		if !apiequality.Semantic.DeepEqual(ds.Spec.Template, old.Spec.Template) {
			generation++
		}
	}
	if ds.Annotations == nil {
		ds.Annotations = map[string]string{}
	}
	ds.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(generation, 10)
}

func templateGeneration(ds *appsv1.DaemonSet) int64 {
	generation, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return generation
}

func validateDaemonSetSpec(spec, old *appsv1.DaemonSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validate.LabelSelector(spec.Selector, path.Child("selector"))
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), spec.Template.Labels,
			"`selector` does not match template `labels`"))
	}
	if spec.Selector != nil && len(spec.Selector.MatchLabels)+len(spec.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), spec.Selector, "empty selector is invalid for daemonset"))
	}
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Template
	}
	errs = append(errs, core.ValidateReplicaTemplate(&spec.Template, oldTemplate, path.Child("template"), "DaemonSet")...)
	errs = append(errs, validate.Nonnegative(spec.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	return append(errs, validate.NonnegativePtr(spec.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, *s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
	}
	path = path.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	values := map[string]*intstr.IntOrString{"maxUnavailable": s.RollingUpdate.MaxUnavailable, "maxSurge": s.RollingUpdate.MaxSurge}
	set := 0
	for _, name := range []string{"maxUnavailable", "maxSurge"} {
		if values[name] == nil {
			continue
		}
		if amount(*values[name]) != 0 {
			set++
		}
		errs = append(errs, validate.PositiveIntOrPercent(*values[name], path.Child(name))...)
		errs = append(errs, validate.AtMost100Percent(*values[name], path.Child(name))...)
	}
	// A node has room for the new pod either beside the old one or in its place.
	switch set {
	case 0:
		errs = append(errs, field.Required(path.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	case 2:
		errs = append(errs, field.Invalid(path.Child("maxSurge"), s.RollingUpdate.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	}
	return errs
}

func validateDaemonSetStatus(ds, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &ds.Status, field.NewPath("status")
	errs := validate.Nonnegative(s.CurrentNumberScheduled, path.Child("currentNumberScheduled"))
	errs = append(errs, validate.Nonnegative(s.NumberMisscheduled, path.Child("numberMisscheduled"))...)
	errs = append(errs, validate.Nonnegative(s.DesiredNumberScheduled, path.Child("desiredNumberScheduled"))...)
	errs = append(errs, validate.Nonnegative(s.NumberReady, path.Child("numberReady"))...)
	errs = append(errs, validate.Nonnegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, validate.Nonnegative(s.UpdatedNumberScheduled, path.Child("updatedNumberScheduled"))...)
	errs = append(errs, validate.Nonnegative(s.NumberAvailable, path.Child("numberAvailable"))...)
	errs = append(errs, validate.Nonnegative(s.NumberUnavailable, path.Child("numberUnavailable"))...)
	errs = append(errs, validate.NonnegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	return append(errs, validateCollisionCount(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
