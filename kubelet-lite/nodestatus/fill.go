package nodestatus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"
	ndftypes "k8s.io/component-helpers/nodedeclaredfeatures/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fill writes everything that the node says about itself into its status.
func (m *Manager) fill(ctx context.Context, node *corev1.Node) {
	s := &node.Status
	s.Addresses = m.cfg.Addresses
	m.fillResources(s)
	s.NodeInfo = m.cfg.Info
	s.DaemonEndpoints.KubeletEndpoint.Port = m.cfg.KubeletPort
	s.VolumesInUse = m.cfg.InUse()
	s.DeclaredFeatures = declaredFeatures()
	if images := m.images(ctx); images != nil {
		s.Images = images
	}
	status, err := m.cfg.Runtime.Runtime.Status(ctx, false)
	if err == nil {
		m.runtimeFeatures(s, status)
	}
	m.pressureConditions(s)
	m.readyCondition(s, status, err)
}

// declaredFeatures names what this agent can do that older ones cannot (KEP-5328): the API server and the scheduler keep pods that
// need it away from others.
func declaredFeatures() []string {
	return slices.Sorted(slices.Values(ndf.DefaultFramework.DiscoverNodeFeatures(&ndftypes.NodeConfiguration{
		FeatureGates: ndftypes.FeatureGateMap{
			"ContainerRestartRules": true, "RestartAllContainersOnContainerExits": true, "ExtendWebSocketsToKubelet": true,
			"InPlacePodLevelResourcesVerticalScaling": true, "InPlacePodVerticalScalingInitContainers": true,
		},
	})))
}

// fillResources reports what the node has, and keeps the extended resources that others put into its capacity: administrators
// advertise those by patching the status, and the kubelet makes them allocatable.
func (m *Manager) fillResources(s *corev1.NodeStatus) {
	advertised := s.Capacity
	s.Capacity, s.Allocatable = m.resources()
	for name, quantity := range advertised {
		if _, ours := s.Capacity[name]; !ours && extended(name) {
			s.Capacity[name], s.Allocatable[name] = quantity, quantity
		}
	}
}

// extended tells whether a resource is none of Kubernetes' own: its name has a domain, and not that of the project.
func extended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

func (m *Manager) resources() (capacity, allocatable corev1.ResourceList) {
	capacity, allocatable = maps.Clone(m.cfg.Capacity), maps.Clone(m.cfg.Allocatable)
	moreCapacity, moreAllocatable := m.cfg.Extra()
	maps.Copy(capacity, moreCapacity)
	maps.Copy(allocatable, moreAllocatable)
	return capacity, allocatable
}

// images lists the largest images; nil if the runtime does not say.
func (m *Manager) images(ctx context.Context) []corev1.ContainerImage {
	list, err := m.cfg.Runtime.Images.ListImages(ctx, nil)
	if err != nil {
		return nil
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Size != list[j].Size {
			return list[i].Size > list[j].Size
		}
		return list[i].Id < list[j].Id
	})
	out := []corev1.ContainerImage{}
	for _, i := range list[:min(len(list), maxImages)] {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) == 0 {
			continue
		}
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
	}
	return out
}

func (m *Manager) runtimeFeatures(s *corev1.NodeStatus, status *runtimeapi.StatusResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.RuntimeHandlers = nil
	for _, h := range status.RuntimeHandlers {
		features := &corev1.NodeRuntimeHandlerFeatures{}
		if f := h.Features; f != nil {
			features.RecursiveReadOnlyMounts, features.UserNamespaces = &f.RecursiveReadOnlyMounts, &f.UserNamespaces
			m.handlers[h.Name] = f.RecursiveReadOnlyMounts
		}
		s.RuntimeHandlers = append(s.RuntimeHandlers, corev1.NodeRuntimeHandler{Name: h.Name, Features: features})
	}
	sort.Slice(s.RuntimeHandlers, func(i, j int) bool { return s.RuntimeHandlers[i].Name < s.RuntimeHandlers[j].Name })
	if f := status.Features; f != nil {
		s.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
}

// pressures are the conditions of what can run short, with what is said of each in good times and in bad.
var pressures = []struct {
	condition               corev1.NodeConditionType
	calm, calmMessage       string
	strained, strainMessage string
}{
	{corev1.NodeMemoryPressure, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
	{corev1.NodeDiskPressure, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure", "kubelet has disk pressure"},
	{corev1.NodePIDPressure, "KubeletHasSufficientPID", "kubelet has sufficient PID available", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
}

func (m *Manager) pressureConditions(s *corev1.NodeStatus) {
	for _, p := range pressures {
		c := corev1.NodeCondition{Type: p.condition, Status: corev1.ConditionFalse, Reason: p.calm, Message: p.calmMessage}
		if m.cfg.Pressure(p.condition) {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, p.strained, p.strainMessage
		}
		m.setCondition(s, c)
	}
}

func (m *Manager) readyCondition(s *corev1.NodeStatus, status *runtimeapi.StatusResponse, err error) {
	var troubles []string
	if err != nil {
		troubles = append(troubles, fmt.Sprintf("container runtime is down: %v", err))
	}
	for _, c := range status.GetStatus().GetConditions() {
		switch {
		case c.Status:
		case c.Type == runtimeapi.RuntimeReady:
			troubles = append(troubles, fmt.Sprintf("container runtime not ready: RuntimeReady=false reason:%s message:%s", c.Reason, c.Message))
		case c.Type == runtimeapi.NetworkReady:
			troubles = append(troubles, fmt.Sprintf("container runtime network not ready: NetworkReady=false reason:%s message:%s", c.Reason, c.Message))
		}
	}
	if m.cfg.Trouble != nil {
		if text := m.cfg.Trouble(); text != "" {
			troubles = append(troubles, text)
		}
	}
	c := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if len(troubles) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", strings.Join(troubles, ", ")
	}
	m.setCondition(s, c)
}

func (m *Manager) setCondition(s *corev1.NodeStatus, c corev1.NodeCondition) {
	now := metav1.NewTime(m.cfg.Clock.Now()).Rfc3339Copy()
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i := range s.Conditions {
		if old := &s.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}
