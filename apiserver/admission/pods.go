package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
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
	if apierrors.IsNotFound(err) && len(content.IsPathSegmentName(name)) == 0 {
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

// TolerationSeconds is how long a pod stays on a node that is not ready or cannot be reached, if it does not say itself.
type TolerationSeconds struct{ NotReady, Unreachable int64 }

// defaultTolerationSeconds lets pods survive a short absence of their node.
func (s *TolerationSeconds) defaultTolerationSeconds(dependencies) hooks {
	return hooks{admit: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || !mainResource(a) {
			return nil
		}
		for _, d := range []struct {
			key     string
			seconds int64
		}{{corev1.TaintNodeNotReady, s.NotReady}, {corev1.TaintNodeUnreachable, s.Unreachable}} {
			tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
				return (t.Key == d.key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
			})
			if !tolerated {
				addToleration(pod, corev1.Toleration{
					Key: d.key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &d.seconds,
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
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// alwaysPullImages makes sure that nobody starts an image only because it is on the node already.
func alwaysPullImages(dependencies) hooks {
	judge := func(visit func(*field.Error, *corev1.PullPolicy) error) func(context.Context, admission.Attributes) error {
		return func(_ context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || !mainResource(a) {
				return nil
			}
			if old, ok := a.GetOldObject().(*corev1.Pod); ok && len(imagesOf(pod).Difference(imagesOf(old))) == 0 {
				return nil
			}
			var errs []error
			eachPullPolicy(pod, func(path *field.Path, policy *corev1.PullPolicy) {
				if err := visit(field.NotSupported(path, *policy, []corev1.PullPolicy{corev1.PullAlways}), policy); err != nil {
					errs = append(errs, admission.NewForbidden(a, err))
				}
			})
			return utilerrors.NewAggregate(errs)
		}
	}
	return hooks{
		admit: judge(func(_ *field.Error, policy *corev1.PullPolicy) error { *policy = corev1.PullAlways; return nil }),
		validate: judge(func(otherwise *field.Error, policy *corev1.PullPolicy) error {
			if *policy == corev1.PullAlways {
				return nil
			}
			return otherwise
		}),
	}
}

func imagesOf(pod *corev1.Pod) sets.Set[string] {
	images := sets.New[string]()
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			images.Insert(list[i].Image)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		images.Insert(pod.Spec.EphemeralContainers[i].Image)
	}
	return images
}

func eachPullPolicy(pod *corev1.Pod, visit func(*field.Path, *corev1.PullPolicy)) {
	spec := field.NewPath("spec")
	for i := range pod.Spec.InitContainers {
		visit(spec.Child("initContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.InitContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Containers {
		visit(spec.Child("containers").Index(i).Child("imagePullPolicy"), &pod.Spec.Containers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.EphemeralContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			visit(spec.Child("volumes").Index(i).Child("image", "pullPolicy"), &image.PullPolicy)
		}
	}
}

// podTopologyLabels copies the zone and region of a node to the pods that are bound to it, or made on it.
func podTopologyLabels(d dependencies) hooks {
	informer := d.factory.Core().V1().Nodes()
	lister := informer.Lister()
	return hooks{synced: []cache.InformerSynced{informer.Informer().HasSynced}, admit: func(_ context.Context, a admission.Attributes) error {
		var name string
		switch obj := a.GetObject().(type) {
		case *corev1.Pod:
			if mainResource(a) {
				name = obj.Spec.NodeName
			}
		case *corev1.Binding:
			if obj.Target.Kind == "Node" {
				name = obj.Target.Name
			}
		}
		if name == "" {
			return nil
		}
		node, err := lister.Get(name)
		if err != nil {
			return nil //nolint:nilerr // what is wrong with a node that is not there, the binding itself tells
		}
		object := a.GetObject().(metav1.Object)
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			if value, ok := node.Labels[key]; ok {
				object.SetLabels(labels.Merge(object.GetLabels(), labels.Set{key: value}))
			}
		}
		return nil
	}}
}
