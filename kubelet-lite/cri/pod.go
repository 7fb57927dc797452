package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// Pod is what the runtime knows about one pod. Sandboxes and containers are sorted newest first.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	Sandboxes       []*Sandbox
	Containers      []*Container
}

// Sandbox is one incarnation of the pod's environment.
type Sandbox struct {
	ID             string
	Attempt        uint32
	Ready          bool
	CreatedAt      time.Time
	IPs            []string // empty for a pod on the host's network
	HostNetwork    bool
	RuntimeHandler string
}

// State of a container.
type State string

// The states of the CRI.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Container is one instance of a container of the pod.
type Container struct {
	ID, Name                         string
	State                            State
	SandboxID                        string
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
	Image, ImageRef, ImageID         string
	LogPath                          string
	Resources                        *runtimeapi.LinuxContainerResources
	User                             *runtimeapi.LinuxContainerUser
	StopSignal                       runtimeapi.Signal
	Mounts                           []*runtimeapi.Mount

	// From annotations.
	Hash          string
	RestartCount  int
	BackOff       time.Duration // to wait after this instance before the next is started
	MessagePath   string
	MessagePolicy corev1.TerminationMessagePolicy
	PreStop       *corev1.LifecycleHandler
	GracePeriod   int64 // seconds, for a pod whose spec is gone
}

// Sandbox returns the newest sandbox or nil.
func (p *Pod) Sandbox() *Sandbox {
	if p == nil || len(p.Sandboxes) == 0 {
		return nil
	}
	return p.Sandboxes[0]
}

// Container returns the newest instance of a container or nil.
func (p *Pod) Container(name string) *Container {
	if p == nil {
		return nil
	}
	for _, c := range p.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Before returns the instance of the same container that c followed, or nil.
func (p *Pod) Before(c *Container) *Container {
	if p == nil || c == nil {
		return nil
	}
	found := false
	for _, older := range p.Containers {
		if found && older.Name == c.Name {
			return older
		}
		found = found || older == c
	}
	return nil
}

// Running reports whether any container runs, or may run for all we know.
func (p *Pod) Running() bool {
	for _, c := range p.Containers {
		if c.State == Running || c.State == Unknown {
			return true
		}
	}
	return false
}

// Pod reads everything about one pod from the runtime.
func (c *Client) Pod(ctx context.Context, uid types.UID) (*Pod, error) {
	pods, err := c.pods(ctx, map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)})
	if err != nil {
		return nil, err
	}
	if p := pods[uid]; p != nil {
		return p, nil
	}
	return &Pod{UID: uid}, nil
}

// Pods reads every pod that the runtime knows.
func (c *Client) Pods(ctx context.Context) (map[types.UID]*Pod, error) { return c.pods(ctx, nil) }

func (c *Client) pods(ctx context.Context, labels map[string]string) (map[types.UID]*Pod, error) {
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods := map[types.UID]*Pod{}
	for _, s := range sandboxes {
		resp, err := c.Runtime.PodSandboxStatus(ctx, s.Id, false)
		if isNotFound(err) {
			continue // removed since the list
		}
		if err != nil {
			return nil, fmt.Errorf("sandbox status: %w", err)
		}
		if p := podOf(pods, s.Labels); p != nil {
			p.Sandboxes = append(p.Sandboxes, sandboxFrom(resp.Status))
		}
	}
	for _, l := range containers {
		resp, err := c.Runtime.ContainerStatus(ctx, l.Id, false)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container status: %w", err)
		}
		if p := podOf(pods, l.Labels); p != nil {
			p.Containers = append(p.Containers, containerFrom(resp.Status, l.PodSandboxId))
		}
	}
	for _, p := range pods {
		sort.Slice(p.Sandboxes, func(i, j int) bool { return p.Sandboxes[i].CreatedAt.After(p.Sandboxes[j].CreatedAt) })
		sort.Slice(p.Containers, func(i, j int) bool { return p.Containers[i].CreatedAt.After(p.Containers[j].CreatedAt) })
	}
	return pods, nil
}

// podOf finds or adds the pod that labels name; nil for what is not Kubernetes' own.
func podOf(pods map[types.UID]*Pod, labels map[string]string) *Pod {
	uid := types.UID(labels[kubelettypes.KubernetesPodUIDLabel])
	if uid == "" {
		return nil
	}
	if pods[uid] == nil {
		pods[uid] = &Pod{UID: uid, Namespace: labels[kubelettypes.KubernetesPodNamespaceLabel], Name: labels[kubelettypes.KubernetesPodNameLabel]}
	}
	return pods[uid]
}

func sandboxFrom(s *runtimeapi.PodSandboxStatus) *Sandbox {
	out := &Sandbox{
		ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Unix(0, s.CreatedAt), RuntimeHandler: s.RuntimeHandler,
		HostNetwork: s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE,
	}
	if ip := s.GetNetwork().GetIp(); ip != "" && !out.HostNetwork {
		out.IPs = append(out.IPs, ip)
		for _, more := range s.Network.AdditionalIps {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out
}

var states = map[runtimeapi.ContainerState]State{
	runtimeapi.ContainerState_CONTAINER_CREATED: Created,
	runtimeapi.ContainerState_CONTAINER_RUNNING: Running,
	runtimeapi.ContainerState_CONTAINER_EXITED:  Exited,
	runtimeapi.ContainerState_CONTAINER_UNKNOWN: Unknown,
}

func containerFrom(s *runtimeapi.ContainerStatus, sandboxID string) *Container {
	out := &Container{
		ID: s.Id, Name: s.Labels[kubelettypes.KubernetesContainerNameLabel], State: states[s.State], SandboxID: sandboxID,
		CreatedAt: unixTime(s.CreatedAt), StartedAt: unixTime(s.StartedAt), FinishedAt: unixTime(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: s.GetImage().GetImage(), ImageRef: s.ImageRef, ImageID: s.ImageId, LogPath: s.LogPath, Mounts: s.Mounts,
		Resources: s.GetResources().GetLinux(), User: s.GetUser().GetLinux(), StopSignal: s.StopSignal,

		Hash:          s.Annotations[annotationHash],
		MessagePath:   s.Annotations[annotationMessagePath],
		MessagePolicy: corev1.TerminationMessagePolicy(s.Annotations[annotationMessagePolicy]),
		GracePeriod:   defaultTerminationGraceSecs,
	}
	if image := s.GetImage().GetUserSpecifiedImage(); image != "" {
		out.Image = image
	}
	// An annotation that does not parse was not written by a kubelet; the zero value is right then.
	out.RestartCount, _ = strconv.Atoi(s.Annotations[annotationRestartCount])
	out.BackOff, _ = time.ParseDuration(s.Annotations[annotationBackOff])
	if grace, err := strconv.ParseInt(s.Annotations[annotationGracePeriod], 10, 64); err == nil {
		out.GracePeriod = grace
	}
	if text := s.Annotations[annotationPreStop]; text != "" {
		handler := &corev1.LifecycleHandler{}
		if json.Unmarshal([]byte(text), handler) == nil {
			out.PreStop = handler
		}
	}
	return out
}

func unixTime(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
