package cri

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// The keys of container annotations. All but the last are upstream's, so a node may change its agent without losing a container.
const (
	annotationHash              = "io.kubernetes.container.hash"
	annotationRestartCount      = "io.kubernetes.container.restartCount"
	annotationMessagePath       = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy     = "io.kubernetes.container.terminationMessagePolicy"
	annotationPreStop           = "io.kubernetes.container.preStopHandler"
	annotationPorts             = "io.kubernetes.container.ports"
	annotationGracePeriod       = "io.kubernetes.pod.terminationGracePeriod"
	annotationDeletionGrace     = "io.kubernetes.pod.deletionGracePeriod"
	annotationBackOff           = "dev.keelson.container.backoff" // how long to wait after this instance exits
	defaultTerminationGraceSecs = 30
)

// Hash changes when a running container must be replaced because of its spec: only the image can change in place.
func Hash(c *corev1.Container) string {
	data, err := json.Marshal(struct{ Name, Image string }{c.Name, c.Image})
	if err != nil {
		panic(err) // two strings always marshal
	}
	h := fnv.New32a()
	h.Write(data)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

func podLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:      pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel: pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:       string(pod.UID),
	}
}

func containerLabels(pod *corev1.Pod, c *corev1.Container) map[string]string {
	labels := podLabels(pod)
	labels[kubelettypes.KubernetesContainerNameLabel] = c.Name
	return labels
}

func containerAnnotations(pod *corev1.Pod, c *corev1.Container, attempt int, backOff time.Duration) map[string]string {
	a := map[string]string{
		annotationHash:          Hash(c),
		annotationRestartCount:  strconv.Itoa(attempt),
		annotationMessagePath:   c.TerminationMessagePath,
		annotationMessagePolicy: string(c.TerminationMessagePolicy),
		annotationBackOff:       backOff.String(),
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		a[annotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	if pod.DeletionGracePeriodSeconds != nil {
		a[annotationDeletionGrace] = strconv.FormatInt(*pod.DeletionGracePeriodSeconds, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if data, err := json.Marshal(c.Lifecycle.PreStop); err == nil {
			a[annotationPreStop] = string(data)
		}
	}
	if len(c.Ports) > 0 {
		if data, err := json.Marshal(c.Ports); err == nil {
			a[annotationPorts] = string(data)
		}
	}
	return a
}

// PodLogDir is where a pod's containers log: <root>/<namespace>_<name>_<uid>. Without a root it is nowhere: empty.
func PodLogDir(root string, pod *corev1.Pod) string {
	if root == "" {
		return ""
	}
	return filepath.Join(root, fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

// logPath is relative to the pod's log directory.
func logPath(container string, attempt int) string {
	return filepath.Join(container, strconv.Itoa(attempt)+".log")
}
