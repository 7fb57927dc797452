package core

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

func validateContainers(c *podContext, path *field.Path) field.ErrorList {
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		container, at := &c.spec.Containers[i], path.Index(i)
		errs = append(errs, validateContainerCommon(c, container, at)...)
		errs = append(errs, validateContainerName(container.Name, names, at)...)
		errs = append(errs, validateLongRunning(c, container, at)...)
		errs = append(errs, validateResizePolicy(container.ResizePolicy, at.Child("resizePolicy"), c.spec.RestartPolicy)...)
		errs = append(errs, validateRestartRules(container, at)...)
	}
	return append(errs, validateHostPortConflicts(c.spec.Containers, path)...)
}

// validateInitContainers checks containers that run one after the other, and among them sidecars, which keep running.
func validateInitContainers(c *podContext, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		names.Insert(c.spec.Containers[i].Name)
	}
	for i := range c.spec.InitContainers {
		container, at := &c.spec.InitContainers[i], path.Index(i)
		errs = append(errs, validateContainerCommon(c, container, at)...)
		errs = append(errs, validateContainerName(container.Name, names, at)...)
		errs = append(errs, validateHostPortConflicts(c.spec.InitContainers[i:i+1], path)...)
		if container.RestartPolicy != nil || len(container.RestartPolicyRules) == 0 {
			errs = append(errs, validateRestartRules(container, at)...)
		} else { // the rules themselves are judged once they can be used
			errs = append(errs, missingRestartPolicy(at))
		}
		if IsSidecar(container) {
			errs = append(errs, validateLongRunning(c, container, at)...)
			errs = append(errs, validateResizePolicy(container.ResizePolicy, at.Child("resizePolicy"), corev1.RestartPolicyAlways)...)
			continue
		}
		for _, f := range []presence{
			{"lifecycle", container.Lifecycle != nil},
			{"livenessProbe", container.LivenessProbe != nil},
			{"readinessProbe", container.ReadinessProbe != nil},
			{"startupProbe", container.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		errs = append(errs, validateResizePolicy(container.ResizePolicy, at.Child("resizePolicy"), c.spec.RestartPolicy)...)
	}
	return errs
}

func validateContainerName(name string, names sets.Set[string], path *field.Path) field.ErrorList {
	if names.Has(name) {
		return field.ErrorList{field.Duplicate(path.Child("name"), name)}
	}
	names.Insert(name)
	return nil
}

// ephemeralFields are what an ephemeral container may have: it runs once, beside the others, and promises nothing.
var ephemeralFields = sets.New("Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
	"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY")

func validateEphemeralContainers(c *podContext, path *field.Path) field.ErrorList {
	if len(c.spec.EphemeralContainers) == 0 {
		return nil
	}
	var errs field.ErrorList
	targets, names := sets.New[string](), sets.New[string]()
	for i := range c.spec.InitContainers {
		names.Insert(c.spec.InitContainers[i].Name)
		targets.Insert(c.spec.InitContainers[i].Name)
	}
	for i := range c.spec.Containers {
		names.Insert(c.spec.Containers[i].Name)
		targets.Insert(c.spec.Containers[i].Name)
	}
	for i := range c.spec.EphemeralContainers {
		ephemeral, at := &c.spec.EphemeralContainers[i], path.Index(i)
		errs = append(errs, validateContainerCommon(c, (*corev1.Container)(&ephemeral.EphemeralContainerCommon), at)...)
		errs = append(errs, validateResizePolicy(ephemeral.ResizePolicy, at.Child("resizePolicy"), c.spec.RestartPolicy)...)
		errs = append(errs, validateContainerName(ephemeral.Name, names, at)...)
		if ephemeral.TargetContainerName != "" && !targets.Has(ephemeral.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), ephemeral.TargetContainerName))
		}
		value := reflect.ValueOf(ephemeral.EphemeralContainerCommon)
		for j := range value.NumField() {
			name := value.Type().Field(j).Name
			if !ephemeralFields.Has(name) && !isUnset(value.Field(j)) {
				errs = append(errs, field.Forbidden(at.Child(lowerFirst(name)), "cannot be set for an Ephemeral Container"))
			}
		}
		for j, mount := range ephemeral.VolumeMounts {
			if mount.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), "cannot be set for an Ephemeral Container"))
			}
			if mount.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return errs
}

func isUnset(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Slice, reflect.Map:
		return value.Len() == 0
	default:
		return value.IsZero()
	}
}

// validateContainerCommon checks what containers of every sort have.
func validateContainerCommon(c *podContext, container *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if container.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, validate.DNSLabel(container.Name, path.Child("name"))...)
	}
	switch {
	case container.Image == "":
		errs = append(errs, field.Required(path.Child("image"), ""))
	case strings.TrimSpace(container.Image) != container.Image:
		errs = append(errs, field.Invalid(path.Child("image"), container.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, validate.RequiredOneOf(container.TerminationMessagePolicy, path.Child("terminationMessagePolicy"),
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validateContainerPorts(container.Ports, path.Child("ports"))...)
	errs = append(errs, validateEnv(c, container.Env, path.Child("env"))...)
	errs = append(errs, validateEnvFrom(container.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, validateVolumeMounts(c, container, path.Child("volumeMounts"))...)
	errs = append(errs, validateVolumeDevices(c, container, path.Child("volumeDevices"))...)
	errs = append(errs, validatePullPolicy(container.ImagePullPolicy, path.Child("imagePullPolicy"))...)
	errs = append(errs, validate.ResourceRequirements(&container.Resources, c.claims, path.Child("resources"), validate.ContainerResourceName)...)
	return append(errs, validateSecurityContext(c, container.SecurityContext, path.Child("securityContext"))...)
}

func validatePullPolicy(policy corev1.PullPolicy, path *field.Path) field.ErrorList {
	return validate.RequiredOneOf(policy, path, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

// validateLongRunning checks the probes and hooks of containers that are meant to stay.
func validateLongRunning(c *podContext, container *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if container.Lifecycle != nil {
		errs = append(errs, validateLifecycle(container.Lifecycle, c, path.Child("lifecycle"))...)
	}
	errs = append(errs, validateLivenessProbe(container.LivenessProbe, path.Child("livenessProbe"))...)
	errs = append(errs, validateReadinessProbe(container.ReadinessProbe, path.Child("readinessProbe"))...)
	return append(errs, validateLivenessProbe(container.StartupProbe, path.Child("startupProbe"))...)
}

func validateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		at := path.Index(i)
		if port.Name != "" {
			messages := validation.IsValidPortName(port.Name)
			errs = append(errs, validate.Messages(at.Child("name"), port.Name, messages)...)
			if len(messages) == 0 && names.Has(port.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, validate.Port(port.ContainerPort, at.Child("containerPort"))...)
		}
		if port.HostPort != 0 {
			errs = append(errs, validate.Port(port.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, validate.Protocol(port.Protocol, at.Child("protocol"))...)
	}
	return errs
}

func validateHostPortConflicts(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range containers {
		for j, port := range containers[i].Ports {
			if port.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

func validateResizePolicy(policies []corev1.ContainerResizePolicy, path *field.Path, restart corev1.RestartPolicy) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, policy := range policies {
		if seen.Has(policy.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), policy.ResourceName))
		}
		seen.Insert(policy.ResourceName)
		switch policy.ResourceName {
		case corev1.ResourceCPU, corev1.ResourceMemory:
		case "":
			errs = append(errs, field.Required(path, ""))
		default:
			errs = append(errs, field.NotSupported(path, policy.ResourceName, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}))
		}
		switch policy.RestartPolicy {
		case corev1.NotRequired, corev1.RestartContainer:
		case "":
			errs = append(errs, field.Required(path, ""))
		default:
			errs = append(errs, field.NotSupported(path, policy.RestartPolicy,
				[]corev1.ResourceResizeRestartPolicy{corev1.NotRequired, corev1.RestartContainer}))
		}
		if restart == corev1.RestartPolicyNever && policy.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, policy.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

func missingRestartPolicy(path *field.Path) *field.Error {
	return field.Required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
}

const (
	maxRestartRules      = 20
	maxRestartRuleValues = 255
)

// validateRestartRules checks a container's own restart policy and the exit codes that override it.
func validateRestartRules(container *corev1.Container, path *field.Path) field.ErrorList {
	errs := validate.OptionalOneOf(container.RestartPolicy, path.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	rules := path.Child("restartPolicyRules")
	if len(container.RestartPolicyRules) > 0 && container.RestartPolicy == nil {
		errs = append(errs, missingRestartPolicy(path))
	}
	if len(container.RestartPolicyRules) > maxRestartRules {
		errs = append(errs, field.TooMany(rules, len(container.RestartPolicyRules), maxRestartRules))
	}
	for i, rule := range container.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, validate.OneOf(rule.Action, at.Child("action"),
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, validate.OneOf(rule.ExitCodes.Operator, at.Child("exitCodes", "operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		values := at.Child("exitCodes", "values")
		if len(rule.ExitCodes.Values) > maxRestartRuleValues {
			errs = append(errs, field.TooMany(values, len(rule.ExitCodes.Values), maxRestartRuleValues))
		}
	}
	return errs
}

// isPrivileged tells whether the container has the powers of the host's root.
func isPrivileged(container *corev1.Container) bool {
	return container.SecurityContext != nil && ptr.Deref(container.SecurityContext.Privileged, false)
}

// containerNames lists the names of containers that stay for the pod's life or come before: every one but ephemeral ones.
func containerNames(spec *corev1.PodSpec) []string {
	var names []string
	visitContainers(spec, func(list string, _ int, c *corev1.Container) {
		if list != "ephemeralContainers" {
			names = append(names, c.Name)
		}
	})
	slices.Sort(names)
	return names
}
