package admission

import (
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"sigs.k8s.io/yaml"
)

const (
	nodeSelectorAnnotation = "scheduler.alpha.kubernetes.io/node-selector"
	// clusterNodeSelector is the key of the selector for namespaces without the annotation; the other keys of the configuration are
	// names of namespaces.
	clusterNodeSelector = "clusterDefaultNodeSelector"
)

// loadPodNodeSelector reads the selectors: podNodeSelectorPluginConfig is a map from namespace to what its pods may select.
func loadPodNodeSelector(config io.Reader) (func(dependencies) hooks, error) {
	var file struct {
		Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if config != nil {
		data, err := io.ReadAll(config)
		if err != nil {
			return nil, fmt.Errorf("read PodNodeSelector configuration: %w", err)
		}
		if err := yaml.UnmarshalStrict(data, &file); err != nil {
			return nil, fmt.Errorf("parse PodNodeSelector configuration: %w", err)
		}
	}
	return func(d dependencies) hooks { return podNodeSelector(d, file.Selectors) }, nil
}

// podNodeSelector keeps the pods of a namespace on its nodes: it adds the namespace's selector, and refuses another.
func podNodeSelector(d dependencies, selectors map[string]string) hooks {
	return d.podsOfNamespaces(func(a admission.Attributes, pod *corev1.Pod, namespace *corev1.Namespace, change bool) error {
		own, err := selectorOf(namespace, selectors)
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		allowed, err := labels.ConvertSelectorToLabelsMap(selectors[a.GetNamespace()])
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		if labels.Conflicts(own, pod.Spec.NodeSelector) {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errors.New("pod node label selector conflicts with its namespace node label selector"))
		}
		if change {
			pod.Spec.NodeSelector = labels.Merge(own, pod.Spec.NodeSelector)
		}
		if !within(pod.Spec.NodeSelector, allowed) {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errors.New("pod node label selector labels conflict with its namespace whitelist"))
		}
		return nil
	})
}

// selectorOf is what the namespace's annotation says, else the cluster's selector.
func selectorOf(namespace *corev1.Namespace, selectors map[string]string) (labels.Set, error) {
	selector, ok := namespace.Annotations[nodeSelectorAnnotation]
	if !ok {
		selector = selectors[clusterNodeSelector]
	}
	return labels.ConvertSelectorToLabelsMap(selector)
}

// within tells whether all labels are among the allowed ones; none allowed means no limit.
func within(set, allowed labels.Set) bool {
	if len(allowed) == 0 {
		return true
	}
	for key, value := range set {
		if have, ok := allowed[key]; !ok || have != value {
			return false
		}
	}
	return true
}
