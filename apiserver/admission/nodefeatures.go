package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	resourcehelper "k8s.io/component-helpers/resource"
)

// nodeFeatures refuses a change of a running pod that its node has not declared that it can follow (KEP 5328).
func nodeFeatures(d dependencies) hooks {
	return onNode(d, []string{"", "resize"}, func(a admission.Attributes, pod, old *corev1.Pod, get func() (*corev1.Node, error)) error {
		of := func(p *corev1.Pod) *nodedeclaredfeatures.PodInfo {
			return &nodedeclaredfeatures.PodInfo{Spec: &p.Spec, Status: &p.Status}
		}
		required, err := nodedeclaredfeatures.DefaultFramework.InferForPodUpdate(of(old), of(pod), d.version)
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("failed to infer pod capability requirements: %w", err))
		}
		if required.IsEmpty() {
			return nil
		}
		node, err := get()
		if err != nil {
			return err
		}
		result, err := nodedeclaredfeatures.DefaultFramework.MatchNode(required, node)
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
		}
		if !result.IsMatch {
			return admission.NewForbidden(a, fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(result.UnsatisfiedRequirements, ", "), node.Name))
		}
		return nil
	})
}

// podResize refuses at once what the node of a pod can never give it.
func podResize(d dependencies) hooks {
	return onNode(d, []string{"resize"}, func(a admission.Attributes, pod, _ *corev1.Pod, get func() (*corev1.Node, error)) error {
		node, err := get()
		if err != nil {
			return err
		}
		if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
			return withCause(admission.NewForbidden(a, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os)), "UnsupportedPlatform")
		}
		if err := fits(pod, node.Status.Allocatable); err != nil {
			return withCause(admission.NewForbidden(a, err), "NodeCapacity")
		}
		return nil
	})
}

func fits(pod *corev1.Pod, allocatable corev1.ResourceList) error {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var over []string
	if cpu := requests.Cpu(); cpu.Cmp(*allocatable.Cpu()) > 0 {
		over = append(over, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), allocatable.Cpu().MilliValue()))
	}
	if memory := requests.Memory(); memory.Cmp(*allocatable.Memory()) > 0 {
		over = append(over, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), allocatable.Memory().Value()))
	}
	if len(over) > 0 {
		return fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(over, "; "))
	}
	return nil
}

func withCause(err error, cause metav1.CauseType) error {
	if refused, ok := errors.AsType[*apierrors.StatusError](err); ok {
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}

// onNode judges changes of the spec of a pod that is on a node.
func onNode(d dependencies, subresources []string, judge func(a admission.Attributes, pod, old *corev1.Pod, node func() (*corev1.Node, error)) error) hooks {
	informer := d.factory.Core().V1().Nodes()
	lister := informer.Lister()
	return hooks{synced: []cache.InformerSynced{informer.Informer().HasSynced}, validate: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		old, was := a.GetOldObject().(*corev1.Pod)
		if !ok || !was || !slices.Contains(subresources, a.GetSubresource()) || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
			return nil
		}
		return judge(a, pod, old, func() (*corev1.Node, error) {
			node, err := lister.Get(pod.Spec.NodeName)
			if apierrors.IsNotFound(err) {
				return nil, admission.NewForbidden(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
			}
			return node, err
		})
	}}
}
