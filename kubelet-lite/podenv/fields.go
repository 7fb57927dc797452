package podenv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// fieldValue resolves what only a running pod knows, and leaves the metadata to PodField.
func fieldValue(in Input, ref *corev1.ObjectFieldSelector) (string, error) {
	switch ref.FieldPath {
	case "spec.nodeName":
		return in.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return in.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(in.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(in.HostIPs, ","), nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	}
	return PodField(in.Pod, ref.FieldPath)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// PodField resolves a metadata field path, for environment variables and for downward API files.
func PodField(pod *corev1.Pod, path string) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", configErrorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	}
	return "", configErrorf("unsupported fieldPath: %v", path)
}

// subscript splits metadata.labels['key'] into its two parts.
func subscript(path string) (base, key string, ok bool) {
	base, rest, found := strings.Cut(path, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return path, "", false
	}
	return base, strings.TrimSuffix(rest, "']"), true
}

func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(lines, "\n")
}

func resourceFieldValue(in Input, ref *corev1.ResourceFieldSelector) (string, error) {
	container := in.Container
	if ref.ContainerName != "" && ref.ContainerName != container.Name {
		if container = findContainer(in.Pod, ref.ContainerName); container == nil {
			return "", configErrorf("container %s not found", ref.ContainerName)
		}
	}
	return ContainerResource(in.Pod, container, ref, in.NodeAllocatable)
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// PodResource is ContainerResource for the container that the reference itself names, as downward API files need it.
func PodResource(pod *corev1.Pod, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	container := findContainer(pod, ref.ContainerName)
	if container == nil {
		return "", configErrorf("container %s not found", ref.ContainerName)
	}
	return ContainerResource(pod, container, ref, allocatable)
}

// ContainerResource returns a limit or request in units of the divisor, rounded up. A limit that the container does not set is
// the pod-level limit if there is one, and else what the node can allocate.
func ContainerResource(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	side, name, ok := strings.Cut(ref.Resource, ".")
	known := name == "cpu" || name == "memory" || name == "ephemeral-storage" || strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	if !ok || !known || (side != "limits" && side != "requests") {
		return "", configErrorf("unsupported container resource : %v", ref.Resource)
	}
	quantity := c.Resources.Requests[corev1.ResourceName(name)]
	if side == "limits" {
		quantity = c.Resources.Limits[corev1.ResourceName(name)]
		if quantity.IsZero() && resourcehelper.IsPodLevelResourcesSet(pod) {
			quantity = pod.Spec.Resources.Limits[corev1.ResourceName(name)]
		}
		if quantity.IsZero() && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
			quantity = allocatable[corev1.ResourceName(name)]
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(int64(math.Ceil(float64(quantity.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(quantity.Value())/float64(divisor.Value()))), 10), nil
}

// fileValue reads KEY=value from an env file in a volume of the pod.
func fileValue(in Input, ref *corev1.FileKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	if in.ReadFile == nil {
		return "", false, configErrorf("environment files are not supported here")
	}
	data, err := in.ReadFile(ref.VolumeName, ref.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && optional:
		return "", false, nil
	case err != nil:
		return "", false, configErrorf("couldn't parse env file: %v", err)
	}
	value, found, err := EnvFileValue(data, ref.Key)
	switch {
	case err != nil:
		return "", false, configErrorf("couldn't parse env file: %v", err)
	case !found && !optional:
		return "", false, configErrorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, found, nil
}

// EnvFileValue finds a key in the format that the EnvFiles feature documents: one KEY='value' per line or over several lines,
// always in single quotes and without escapes; blank lines and # comments are skipped.
func EnvFileValue(data []byte, key string) (string, bool, error) {
	var value string
	var found bool
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimLeft(scanner.Text(), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(rest, "'") {
			return "", false, fmt.Errorf("line %d: want KEY='value'", n)
		}
		rest = rest[1:]
		for !strings.Contains(rest, "'") {
			if !scanner.Scan() {
				return "", false, fmt.Errorf("line %d: quote is not closed", n)
			}
			n++
			rest += "\n" + scanner.Text()
		}
		body, tail, _ := strings.Cut(rest, "'")
		if tail = strings.TrimSpace(tail); tail != "" && !strings.HasPrefix(tail, "#") {
			return "", false, fmt.Errorf("line %d: text after the closing quote", n)
		}
		if name == key {
			value, found = body, true
		}
	}
	return value, found, scanner.Err()
}
