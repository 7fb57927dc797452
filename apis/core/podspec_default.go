package core

import (
	"maps"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"keelson.dev/apis/resource"
	"keelson.dev/apis/validate"
)

// DefaultPod fills what a pod leaves open. Some defaults are a pod's only and do not show in templates: requests that follow from
// limits, service links and host ports.
func DefaultPod(p *corev1.Pod) {
	if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 {
		p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	DefaultPodSpec(&p.Spec)
	mirrorIP(&p.Status)
	for i := range p.Spec.Containers {
		requestsFromLimits(&p.Spec.Containers[i].Resources)
	}
	for i := range p.Spec.InitContainers {
		requestsFromLimits(&p.Spec.InitContainers[i].Resources)
	}
	resource.SetDefaultPtr(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if p.Spec.HostNetwork {
		hostPorts(p.Spec.Containers)
		hostPorts(p.Spec.InitContainers)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			roundUp(list[i].AllocatedResources)
			if list[i].Resources != nil {
				roundUp(list[i].Resources.Limits, list[i].Resources.Requests)
			}
		}
	}
}

// DefaultPodTemplateSpec fills what a template leaves open.
func DefaultPodTemplateSpec(t *corev1.PodTemplateSpec) { DefaultPodSpec(&t.Spec) }

// DefaultPodSpec fills the defaults that pods and templates share.
func DefaultPodSpec(spec *corev1.PodSpec) {
	resource.SetDefault(&spec.DNSPolicy, corev1.DNSClusterFirst)
	resource.SetDefault(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	resource.SetDefault(&spec.SchedulerName, corev1.DefaultSchedulerName)
	resource.SetDefaultPtr(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	// serviceAccount is the older name of serviceAccountName; both are kept equal.
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		roundUp(spec.Resources.Limits, spec.Resources.Requests)
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) { defaultContainer(c) })
}

func defaultContainer(c *corev1.Container) {
	resource.SetDefault(&c.ImagePullPolicy, defaultPullPolicy(c.Image))
	resource.SetDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	resource.SetDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		resource.SetDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if source := c.Env[i].ValueFrom; source != nil {
			defaultFieldRef(source.FieldRef)
			if source.FileKeyRef != nil {
				resource.SetDefaultPtr(&source.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits, c.Resources.Requests)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe != nil {
			defaultProbe(probe)
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for _, handler := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if handler != nil {
			defaultHTTPGet(handler.HTTPGet)
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	resource.SetDefault(&p.TimeoutSeconds, 1)
	resource.SetDefault(&p.PeriodSeconds, 10)
	resource.SetDefault(&p.SuccessThreshold, 1)
	resource.SetDefault(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		resource.SetDefaultPtr(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(action *corev1.HTTPGetAction) {
	if action != nil {
		resource.SetDefault(&action.Path, "/")
		resource.SetDefault(&action.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultFieldRef(ref *corev1.ObjectFieldSelector) {
	if ref != nil {
		resource.SetDefault(&ref.APIVersion, "v1")
	}
}

// defaultPullPolicy is Always for a moving tag: latest, or none at all.
func defaultPullPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent // nothing can pull it
	}
	tagged, hasTag := named.(reference.Tagged)
	_, digested := named.(reference.Digested)
	if hasTag && tagged.Tag() == "latest" || !hasTag && !digested {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits != nil && r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// completePodLevelResources derives what a pod that says something as a whole leaves open from its containers, when it is made and
// when it is resized.
func completePodLevelResources(p *corev1.Pod) {
	r := p.Spec.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	r.Limits = withHugePageLimits(p)
	r.Requests = withPodLevelRequests(p)
	sums := resourcehelper.AggregateContainerLimits(p, resourcehelper.PodResourcesOptions{})
	for name, request := range r.Requests {
		limit, limited := sums[name]
		if _, given := r.Limits[name]; given || !limited || !resourcehelper.IsSupportedPodLevelResource(name) || !allLimited(&p.Spec, name) {
			continue
		}
		if request.Cmp(limit) > 0 {
			limit = request
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = limit.DeepCopy()
	}
}

// allLimited reports whether every container has a limit of a resource.
func allLimited(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	all := true
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) {
		_, limited := c.Resources.Limits[name]
		all = all && limited
	})
	return all
}

// withPodLevelRequests adds to the pod's requests what its containers ask for together, and else what it is limited to.
func withPodLevelRequests(p *corev1.Pod) corev1.ResourceList {
	requests := corev1.ResourceList{}
	maps.Copy(requests, p.Spec.Resources.Requests)
	for name, quantity := range resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{}) {
		if _, ok := requests[name]; !ok && resourcehelper.IsSupportedPodLevelResource(name) && validate.IsOvercommitAllowed(name) {
			requests[name] = quantity.DeepCopy()
		}
	}
	for name, quantity := range p.Spec.Resources.Limits {
		if _, ok := requests[name]; !ok && resourcehelper.IsSupportedPodLevelResource(name) {
			requests[name] = quantity.DeepCopy()
		}
	}
	if len(requests) == 0 {
		return p.Spec.Resources.Requests
	}
	return requests
}

// withHugePageLimits adds the sum of the containers' huge pages to the pod's limits, where the pod itself says nothing of them.
func withHugePageLimits(p *corev1.Pod) corev1.ResourceList {
	limits := p.Spec.Resources.Limits
	for name, quantity := range resourcehelper.AggregateContainerLimits(p, resourcehelper.PodResourcesOptions{}) {
		_, limited := limits[name]
		_, requested := p.Spec.Resources.Requests[name]
		if limited || requested || !validate.IsHugePages(name) {
			continue
		}
		if limits == nil {
			limits = corev1.ResourceList{}
		}
		limits[name] = quantity.DeepCopy()
	}
	return limits
}

func hostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			resource.SetDefault(&containers[i].Ports[j].HostPort, containers[i].Ports[j].ContainerPort)
		}
	}
}

// roundUp keeps amounts to thousandths, the finest that the API has ever kept.
func roundUp(lists ...corev1.ResourceList) {
	for _, list := range lists {
		for name, quantity := range list {
			quantity.RoundUp(apiresource.Milli)
			list[name] = quantity
		}
	}
}
