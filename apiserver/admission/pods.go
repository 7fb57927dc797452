package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// priority turns the name of a priority class into the number that the scheduler compares.
func priority(d dependencies) hooks {
	informer := d.factory.Scheduling().V1().PriorityClasses()
	lister := informer.Lister()
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || !mainResource(a) {
				return nil
			}
			if a.GetOperation() == admission.Update {
				return keepPriority(a, pod)
			}
			class, err := classOf(ctx, d, lister, pod.Spec.PriorityClassName)
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			if err := setPriority(pod, class); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		},
		validate: func(_ context.Context, a admission.Attributes) error {
			class, ok := a.GetObject().(*schedulingv1.PriorityClass)
			if !ok || !mainResource(a) || !class.GlobalDefault {
				return nil
			}
			all, err := lister.List(labels.Everything())
			if err != nil {
				return apierrors.NewInternalError(err)
			}
			for _, other := range all {
				if other.GlobalDefault && other.Name != class.Name {
					return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
				}
			}
			return nil
		},
	}
}

// keepPriority carries what was computed on create through updates whose author does not know of it.
func keepPriority(a admission.Attributes, pod *corev1.Pod) error {
	old, err := oldOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
	return nil
}

// classOf returns the named class, for "" the default one, or nil if there is no default.
func classOf(ctx context.Context, d dependencies, lister schedulinglisters.PriorityClassLister, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		all, err := lister.List(labels.Everything())
		if err != nil {
			return nil, fmt.Errorf("failed to get default priority class: %w", err)
		}
		var lowest *schedulingv1.PriorityClass // several can come to be by a race; the lowest does the least harm
		for _, class := range all {
			if class.GlobalDefault && (lowest == nil || class.Value < lowest.Value) {
				lowest = class
			}
		}
		return lowest, nil
	}
	class, err := lister.Get(name)
	if apierrors.IsNotFound(err) {
		class, err = d.client.SchedulingV1().PriorityClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no PriorityClass with name %v was found", name)
	}
	return class, err
}

func setPriority(pod *corev1.Pod, class *schedulingv1.PriorityClass) error {
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		value, policy = class.Value, ptr.Deref(class.PreemptionPolicy, policy)
		pod.Spec.PriorityClassName = class.Name
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value)
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// tolerationSeconds is how long a pod stays on a node that is not ready or cannot be reached.
const tolerationSeconds = 300

// defaultTolerationSeconds lets pods survive a short absence of their node.
func defaultTolerationSeconds(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || !mainResource(a) {
			return nil
		}
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
				return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
			})
			if !tolerated {
				addToleration(pod, corev1.Toleration{
					Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](tolerationSeconds),
				})
			}
		}
		return nil
	}}
}

// addToleration adds one that the pod has not got.
func addToleration(pod *corev1.Pod, toleration corev1.Toleration) {
	for _, have := range pod.Spec.Tolerations {
		if equality.Semantic.DeepEqual(have, toleration) {
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, toleration)
}

// runtimeClass gives a pod the overhead and the constraints of its runtime class.
func runtimeClass(d dependencies) hooks {
	informer := d.factory.Node().V1().RuntimeClasses()
	lister := informer.Lister()
	get := func(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
		class, err := lister.Get(name)
		if apierrors.IsNotFound(err) {
			class, err = d.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
		}
		return class, err
	}
	judge := func(change bool) func(context.Context, admission.Attributes) error {
		return func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || !mainResource(a) {
				return nil
			}
			var class *nodev1.RuntimeClass
			if name := pod.Spec.RuntimeClassName; name != nil {
				var err error
				if class, err = get(ctx, *name); apierrors.IsNotFound(err) {
					return admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *name))
				} else if err != nil {
					return err
				}
			}
			decide := checkOverhead
			if change {
				decide = applyRuntimeClass
			}
			if err := decide(pod, class); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		}
	}
	return hooks{synced: []cache.InformerSynced{informer.Informer().HasSynced}, admit: judge(true), validate: judge(false)}
}

func checkOverhead(pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	switch {
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
	case len(pod.Spec.Overhead) > 0:
		return errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

func applyRuntimeClass(pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	if class == nil {
		return nil
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[key]; ok && have != value {
			return fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, toleration := range class.Scheduling.Tolerations {
		addToleration(pod, toleration)
	}
	return nil
}

// alwaysPullImages makes sure that nobody starts an image only because it is on the node already.
func alwaysPullImages(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || (!mainResource(a) && a.GetSubresource() != "ephemeralcontainers") {
			return nil
		}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				list[i].ImagePullPolicy = corev1.PullAlways
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			pod.Spec.EphemeralContainers[i].ImagePullPolicy = corev1.PullAlways
		}
		return nil
	}}
}

// extendedResourceToleration lets pods that ask for an extended resource onto the nodes that are kept for it by a taint of its name.
func extendedResourceToleration(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || !mainResource(a) {
			return nil
		}
		var wanted []string
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				for name := range list[i].Resources.Requests {
					s := string(name)
					if strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) && !slices.Contains(wanted, s) {
						wanted = append(wanted, s)
					}
				}
			}
		}
		slices.Sort(wanted)
		for _, name := range wanted {
			addToleration(pod, corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists})
		}
		return nil
	}}
}

// podTopologyLabels copies the zone and region of a node to the pod that is bound to it, by way of the binding.
func podTopologyLabels(d dependencies) hooks {
	return hooks{admit: func(ctx context.Context, a admission.Attributes) error {
		binding, ok := a.GetObject().(*corev1.Binding)
		if !ok || binding.Target.Name == "" || (binding.Target.Kind != "" && binding.Target.Kind != "Node") {
			return nil
		}
		node, err := d.client.CoreV1().Nodes().Get(ctx, binding.Target.Name, metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			return nil //nolint:nilerr // the binding itself tells what is wrong with a node that is not there
		}
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			value, ok := node.Labels[key]
			if !ok {
				continue
			}
			if binding.Labels == nil {
				binding.Labels = map[string]string{}
			}
			binding.Labels[key] = value
		}
		return nil
	}}
}
