package core

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"keelson.dev/apis/validate"
)

// podContext is what checks deep inside a pod spec need to know of the pod around them.
type podContext struct {
	spec *corev1.PodSpec
	// pod is nil for templates, where host ports need not be filled yet.
	pod         *corev1.Pod
	volumes     map[string]*corev1.Volume
	claims      sets.Set[string] // names in spec.resourceClaims
	gracePeriod int64
	hostUsers   bool
}

func newPodContext(spec *corev1.PodSpec, pod *corev1.Pod) *podContext {
	c := &podContext{
		spec: spec, pod: pod, volumes: map[string]*corev1.Volume{}, claims: sets.New[string](),
		gracePeriod: ptr.Deref(spec.TerminationGracePeriodSeconds, 0), hostUsers: ptr.Deref(spec.HostUsers, true),
	}
	for i := range spec.ResourceClaims {
		if name := spec.ResourceClaims[i].Name; name != "" {
			c.claims.Insert(name)
		}
	}
	return c
}

// ValidatePodTemplateSpec checks a template: the labels and annotations of its pods, and their spec.
func ValidatePodTemplateSpec(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	return ValidatePodTemplateSpecUpdate(template, nil, path)
}

// ValidatePodTemplateSpecUpdate checks a template that replaces old (nil on create). An unchanged template is not judged again, so
// that objects stored under older rules stay writable.
func ValidatePodTemplateSpecUpdate(template, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if old != nil && validate.Equal(template, old) {
		return nil
	}
	errs := validate.Labels(template.Labels, path.Child("labels")) // their paths have never had the metadata in them
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("annotations"))...)
	errs = append(errs, validatePodAnnotations(template.Annotations, &template.Spec, path.Child("annotations"))...)
	errs = append(errs, validatePodSpec(newPodContext(&template.Spec, nil), path.Child("spec"))...)
	errs = append(errs, validateSeccompAnnotations(template.Annotations, &template.Spec, path.Child("spec"))...)
	errs = append(errs, validateAppArmorAnnotations(template.Annotations, &template.Spec, path.Child("spec"))...)
	if len(template.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

func validatePodSpec(c *podContext, path *field.Path) field.ErrorList {
	spec := c.spec
	errs := validateVolumes(c, path.Child("volumes"))
	if c.pod != nil && len(spec.ResourceClaims) > 0 && isMirror(c.pod) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
	} else {
		errs = append(errs, validateResourceClaims(spec.ResourceClaims, path.Child("resourceClaims"))...)
	}
	errs = append(errs, validateContainers(c, path.Child("containers"))...)
	errs = append(errs, validateInitContainers(c, path.Child("initContainers"))...)
	errs = append(errs, validateEphemeralContainers(c, path.Child("ephemeralContainers"))...)
	errs = append(errs, validatePodResources(c, path)...)
	errs = append(errs, validate.RequiredOneOf(spec.RestartPolicy, path.Child("restartPolicy"),
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, validate.RequiredOneOf(spec.DNSPolicy, path.Child("dnsPolicy"),
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, validate.Labels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(c, path)...)
	errs = append(errs, validateScheduling(spec, path)...)
	errs = append(errs, validateDNSConfig(spec.DNSConfig, spec.DNSPolicy, path.Child("dnsConfig"))...)
	errs = append(errs, validateHostAliases(spec.HostAliases, path.Child("hostAliases"))...)
	errs = append(errs, validateNames(spec, path)...)
	if deadline := spec.ActiveDeadlineSeconds; deadline != nil && (*deadline < 1 || *deadline > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *deadline, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if spec.PreemptionPolicy != nil {
		errs = append(errs, validate.RequiredOneOf(*spec.PreemptionPolicy, path.Child("preemptionPolicy"),
			corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	overhead := &corev1.ResourceRequirements{Limits: spec.Overhead}
	errs = append(errs, validate.ResourceRequirements(overhead, nil, path.Child("overhead"), validate.ContainerResourceName)...)
	return append(errs, validateOS(spec, path)...)
}

// validateNames checks what refers to other objects or becomes a host name.
func validateNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.ServiceAccountName != "" {
		errs = append(errs, validate.ObjectName(spec.ServiceAccountName, path.Child("serviceAccountName"), apivalidation.NameIsDNSSubdomain)...)
	}
	if spec.NodeName != "" {
		errs = append(errs, validate.ObjectName(spec.NodeName, path.Child("nodeName"), apivalidation.NameIsDNSSubdomain)...)
	}
	if spec.Hostname != "" {
		errs = append(errs, validate.DNSLabel(spec.Hostname, path.Child("hostname"))...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, validate.DNSLabel(spec.Subdomain, path.Child("subdomain"))...)
	}
	if spec.PriorityClassName != "" {
		errs = append(errs, validate.ObjectName(spec.PriorityClassName, path.Child("priorityClassName"), apivalidation.NameIsDNSSubdomain)...)
	}
	if spec.RuntimeClassName != nil {
		errs = append(errs, validate.ObjectName(*spec.RuntimeClassName, path.Child("runtimeClassName"), apivalidation.NameIsDNSSubdomain)...)
	}
	if spec.HostnameOverride == nil {
		return errs
	}
	override := path.Child("hostnameOverride")
	errs = append(errs, validate.DNSSubdomain(*spec.HostnameOverride, override)...)
	if len(*spec.HostnameOverride) > 64 {
		errs = append(errs, field.TooLong(override, *spec.HostnameOverride, 64))
	}
	if ptr.Deref(spec.SetHostnameAsFQDN, false) {
		errs = append(errs, field.Forbidden(override, "may not be specified when `setHostnameAsFQDN` is true"))
	}
	if spec.HostNetwork {
		errs = append(errs, field.Forbidden(override, "may not be specified when hostNetwork is true"))
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		errs = append(errs, validate.IP(alias.IP, path.Index(i).Child("ip"))...)
		for j, name := range alias.Hostnames {
			errs = append(errs, validate.DNSSubdomain(name, path.Index(i).Child("hostnames").Index(j))...)
		}
	}
	return errs
}

// The resolver of the C library knows these bounds.
const (
	maxNameservers      = 3
	maxSearchPaths      = 32
	maxSearchCharacters = 2048
)

func validateDNSConfig(config *corev1.PodDNSConfig, policy corev1.DNSPolicy, path *field.Path) field.ErrorList {
	if config == nil {
		if policy == corev1.DNSNone {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		return nil
	}
	var errs field.ErrorList
	nameservers, searches, options := path.Child("nameservers"), path.Child("searches"), path.Child("options")
	if policy == corev1.DNSNone && len(config.Nameservers) == 0 {
		errs = append(errs, field.Required(nameservers,
			fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
	}
	if len(config.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(nameservers, config.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, nameserver := range config.Nameservers {
		errs = append(errs, validate.IP(nameserver, nameservers.Index(i))...)
	}
	if len(config.Searches) > maxSearchPaths {
		errs = append(errs, field.Invalid(searches, config.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchPaths)))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchCharacters {
		errs = append(errs, field.Invalid(searches, config.Searches,
			fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchCharacters)))
	}
	for i, search := range config.Searches {
		// A lone dot searches nothing but the name as it is given.
		if search != "." {
			name := strings.TrimSuffix(search, ".")
			errs = append(errs, validate.Messages(searches.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(name))...)
		}
	}
	for i, option := range config.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(options.Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateResourceClaims(claims []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, claim := range claims {
		at := path.Index(i)
		switch {
		case claim.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case seen.Has(claim.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), claim.Name))
		default:
			errs = append(errs, validate.DNSLabel(claim.Name, at.Child("name"))...)
			seen.Insert(claim.Name)
		}
		switch {
		case claim.ResourceClaimName != nil && claim.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case claim.ResourceClaimName == nil && claim.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if claim.ResourceClaimName != nil {
			errs = append(errs, validate.ObjectName(*claim.ResourceClaimName, at.Child("resourceClaimName"), apivalidation.NameIsDNSSubdomain)...)
		}
		if claim.ResourceClaimTemplateName != nil {
			errs = append(errs, validate.ObjectName(*claim.ResourceClaimTemplateName, at.Child("resourceClaimTemplateName"), apivalidation.NameIsDNSSubdomain)...)
		}
	}
	return errs
}
