package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
	"keelson.dev/internal/features"
)

// node is a machine that runs pods. Kubelets create it together with its first status.
var node = resource.Definition[*corev1.Node]{
	GroupVersion: corev1.SchemeGroupVersion, Kind: "Node", Plural: "nodes", ShortNames: []string{"no"}, KeyPrefix: "minions",
	HasStatus: true, StatusOnCreate: true, GenerationOf: resource.NoGeneration[*corev1.Node],
	AllowUnconditionalUpdate: true,
	Default:                  defaultNode,
	Prepare:                  prepareNode,
	PrepareStatus: func(n, old *corev1.Node) {
		if old.Status.Config == nil {
			n.Status.Config = nil
		}
	},
	Validate: validateNode, ValidateStatus: validateNodeUpdate,
	ValidateUpdate: func(n, old *corev1.Node) field.ErrorList {
		return append(validateNode(n), validateNodeUpdate(n, old)...)
	},
	Warn: warnNode,
	Fields: map[string]func(*corev1.Node) string{
		"spec.unschedulable": func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) },
	},
	Columns: []resource.Column[*corev1.Node]{
		resource.NameColumn[*corev1.Node](),
		{Name: "Status", Description: "The status of the node", Get: func(n *corev1.Node) any { return nodeStatus(n) }},
		{Name: "Roles", Description: "The roles of the node", Get: func(n *corev1.Node) any { return resource.OrNone(nodeRoles(n)) }},
		resource.AgeColumn[*corev1.Node](),
		{Name: "Version", Description: nodeInfoDoc("kubeletVersion"), Get: func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }},
		{Name: "Internal-IP", Priority: 1, Description: nodeStatusDoc("addresses"), Get: nodeAddress(corev1.NodeInternalIP)},
		{Name: "External-IP", Priority: 1, Description: nodeStatusDoc("addresses"), Get: nodeAddress(corev1.NodeExternalIP)},
		{Name: "OS-Image", Priority: 1, Description: nodeInfoDoc("osImage"), Get: func(n *corev1.Node) any {
			return orUnknown(n.Status.NodeInfo.OSImage)
		}},
		{Name: "Kernel-Version", Priority: 1, Description: nodeInfoDoc("kernelVersion"), Get: func(n *corev1.Node) any {
			kernel := orUnknown(n.Status.NodeInfo.KernelVersion)
			if arch := n.Status.NodeInfo.Architecture; arch != "" {
				kernel += " (" + arch + ")"
			}
			return kernel
		}},
		{Name: "Container-Runtime", Priority: 1, Description: nodeInfoDoc("containerRuntimeVersion"), Get: func(n *corev1.Node) any {
			return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion)
		}},
	},
}

func nodeInfoDoc(name string) string   { return corev1.NodeSystemInfo{}.SwaggerDoc()[name] }
func nodeStatusDoc(name string) string { return corev1.NodeStatus{}.SwaggerDoc()[name] }

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, condition := range n.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if condition.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) []string {
	roles := sets.New[string]()
	for label, value := range n.Labels {
		role, found := strings.CutPrefix(label, "node-role.kubernetes.io/")
		if label == "kubernetes.io/role" {
			role, found = value, true
		}
		if found && role != "" {
			roles.Insert(role)
		}
	}
	return sets.List(roles)
}

func nodeAddress(kind corev1.NodeAddressType) func(*corev1.Node) any {
	return func(n *corev1.Node) any {
		for _, address := range n.Status.Addresses {
			if address.Type == kind {
				return address.Address
			}
		}
		return "<none>"
	}
}

func orUnknown(value string) string {
	if value == "" {
		return "<unknown>"
	}
	return value
}

func defaultNode(n *corev1.Node) {
	spec := &n.Spec
	switch { // podCIDR is the old face of podCIDRs[0], and wins where they differ
	case spec.PodCIDR == "" && len(spec.PodCIDRs) > 0:
		spec.PodCIDR = spec.PodCIDRs[0]
	case spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR):
		spec.PodCIDRs = []string{spec.PodCIDR}
	}
	roundUp(n.Status.Capacity, n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

func prepareNode(n, old *corev1.Node) {
	if old == nil || old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil // dynamic kubelet configuration is gone
	}
	if old == nil {
		n.Status.Config = nil
	}
	if (old == nil || old.Spec.PodPreemptionPolicy == nil) && !features.Enabled("InPlacePodVerticalScalingSchedulerPreemption") {
		n.Spec.PodPreemptionPolicy = nil
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	path := field.NewPath("metadata")
	errs := validateAnyNode(n)
	cidrs := field.NewPath("spec", "podCIDRs")
	for i, cidr := range n.Spec.PodCIDRs {
		errs = append(errs, validate.CIDR(cidr, cidrs.Index(i))...)
	}
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil {
		errs = append(errs, validate.Positive(*swap.Capacity, path.Child("nodeSwapStatus", "capacity"))...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		dual, err := netutils.IsDualStackCIDRStrings(n.Spec.PodCIDRs)
		if err != nil {
			errs = append(errs, field.InternalError(cidrs, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !dual || len(n.Spec.PodCIDRs) > 2 {
			errs = append(errs, field.Invalid(cidrs, n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

// validateAnyNode is what writes of a node and of its status are both held to.
func validateAnyNode(n *corev1.Node) field.ErrorList {
	path := field.NewPath("metadata") // upstream reports taints below metadata
	errs := validateNodeAnnotations(n, path.Child("annotations"))
	errs = append(errs, validate.Taints(n.Spec.Taints, path.Child("taints"))...)
	errs = append(errs, validateNodeResources(n)...)
	return append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
}

var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// validateDeclaredFeatures demands a sorted list of names.
func validateDeclaredFeatures(features []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, feature := range features {
		switch at := path.Index(i); {
		case len(feature) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(at, feature, fmt.Sprintf("invalid feature name %q: must be no more than %d characters",
				feature, validation.DNS1123SubdomainMaxLength)))
		case !featureName.MatchString(feature):
			errs = append(errs, field.Invalid(at, feature, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, "+
				"with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
				feature)))
		}
		if i == 0 {
			continue
		}
		if former := features[i-1]; former == feature {
			errs = append(errs, field.Duplicate(path.Index(i), feature))
		} else if former > feature {
			errs = append(errs, field.Invalid(path.Index(i), feature, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// validateNodeAnnotations checks the one annotation that has a format.
func validateNodeAnnotations(n *corev1.Node, path *field.Path) field.ErrorList {
	value, found := n.Annotations[corev1.PreferAvoidPodsAnnotationKey]
	if !found {
		return nil
	}
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(value), &avoid); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("AvoidPods"), path.String(), err.Error())}
	}
	var errs field.ErrorList
	for i, entry := range avoid.PreferAvoidPods {
		entryPath := path.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		if controller := entry.PodSignature.PodController; controller == nil {
			errs = append(errs, field.Required(entryPath, ""))
		} else if controller.Controller == nil || !*controller.Controller {
			errs = append(errs, field.Invalid(entryPath.Child("PodController", "Controller"), controller.Controller,
				"must point to a controller"))
		}
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	status := field.NewPath("status")
	var errs field.ErrorList
	for _, name := range validate.SortedNames(n.Status.Capacity) {
		errs = append(errs, validate.ResourceQuantity(name, n.Status.Capacity[name], status.Child("capacity", string(name)))...)
	}
	for _, name := range validate.SortedNames(n.Status.Allocatable) {
		errs = append(errs, validate.ResourceQuantity(name, n.Status.Allocatable[name], status.Child("allocatable", string(name)))...)
	}
	return errs
}

// validateNodeUpdate is for both the node and its status.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateAnyNode(n)
	addresses := sets.New[corev1.NodeAddress]()
	for i, address := range n.Status.Addresses {
		if addresses.Has(address) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), address))
		}
		addresses.Insert(address)
	}
	spec := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"),
			`node updates may not change podCIDR except from "" to valid`))
	}
	switch {
	case old.Spec.ProviderID == "" || n.Spec.ProviderID == old.Spec.ProviderID:
	case n.Spec.ProviderID == "":
		errs = append(errs, field.Invalid(spec.Child("providerID"), nil, "field cannot be cleared once set"))
	default:
		errs = append(errs, field.Invalid(spec.Child("providerID"), nil, "field cannot be modified once set"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

func warnNode(n, _ *corev1.Node) []string {
	var warnings []string
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed since v1.24; this field is ignored")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	return warnings
}
