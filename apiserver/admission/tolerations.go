package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"keelson.dev/apis/core"
	"keelson.dev/apis/validate"
)

const (
	defaultTolerations   = "scheduler.alpha.kubernetes.io/defaultTolerations"
	tolerationsWhitelist = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// tolerationConfig is podtolerationrestriction.admission.k8s.io/v1alpha1 Configuration: what holds for namespaces that say nothing.
type tolerationConfig struct {
	metav1.TypeMeta `json:",inline"`
	Default         []corev1.Toleration `json:"default,omitempty"`
	Whitelist       []corev1.Toleration `json:"whitelist,omitempty"`
}

func loadPodTolerationRestriction(config io.Reader) (func(dependencies) hooks, error) {
	var cluster tolerationConfig
	if config != nil {
		if err := decodeConfig(config, "podtolerationrestriction.admission.k8s.io/v1alpha1", "Configuration", &cluster); err != nil {
			return nil, err
		}
		path := field.NewPath("podtolerationrestriction")
		errs := validate.Tolerations(cluster.Default, path.Child("default"))
		if errs = append(errs, validate.Tolerations(cluster.Whitelist, path.Child("whitelist"))...); len(errs) > 0 {
			return nil, fmt.Errorf("invalid config: %w", errs.ToAggregate())
		}
	}
	return func(d dependencies) hooks { return podTolerationRestriction(d, cluster) }, nil
}

// podTolerationRestriction gives pods the default tolerations of their namespace, and refuses those that it does not allow.
func podTolerationRestriction(d dependencies, cluster tolerationConfig) hooks {
	return d.podsOfNamespaces(func(a admission.Attributes, pod *corev1.Pod, namespace *corev1.Namespace, change bool) error {
		var err error
		if change {
			err = addTolerations(pod, namespace, cluster, a.GetOperation() == admission.Create)
		}
		if err == nil {
			err = checkTolerations(pod, namespace, cluster)
		}
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		return nil
	})
}

func addTolerations(pod *corev1.Pod, namespace *corev1.Namespace, cluster tolerationConfig, create bool) error {
	var more []corev1.Toleration
	if create {
		own, err := tolerationsOf(namespace, defaultTolerations)
		if err != nil {
			return err
		}
		if more = own; own == nil {
			more = slices.Clone(cluster.Default)
		}
	}
	if core.ComputePodQOS(pod) != corev1.PodQOSBestEffort { // such a pod has its memory by right
		more = append(more, corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	if len(more) > 0 {
		pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, more)
	}
	return nil
}

func checkTolerations(pod *corev1.Pod, namespace *corev1.Namespace, cluster tolerationConfig) error {
	if len(pod.Spec.Tolerations) == 0 {
		return nil
	}
	allowed, err := tolerationsOf(namespace, tolerationsWhitelist)
	if err != nil {
		return err
	}
	scope := "namespace"
	if allowed == nil {
		allowed, scope = cluster.Whitelist, "cluster"
	}
	for _, t := range pod.Spec.Tolerations {
		if len(allowed) > 0 && !slices.ContainsFunc(allowed, func(w corev1.Toleration) bool { return toleratesMore(w, t) }) {
			return fmt.Errorf("pod tolerations (possibly merged with namespace default tolerations) conflict with its %s whitelist", scope)
		}
	}
	return nil
}

// tolerationsOf reads an annotation: nil without it, an empty list if it is empty.
func tolerationsOf(namespace *corev1.Namespace, annotation string) ([]corev1.Toleration, error) {
	text, ok := namespace.Annotations[annotation]
	if !ok {
		return nil, nil
	}
	tolerations := []corev1.Toleration{}
	if text == "" {
		return tolerations, nil
	}
	if err := json.Unmarshal([]byte(text), &tolerations); err != nil {
		return nil, fmt.Errorf("annotation %s of namespace %s: %w", annotation, namespace.Name, err)
	}
	return tolerations, nil
}

// mergeTolerations joins two lists and leaves out what another entry covers; of equal ones the first stays.
func mergeTolerations(first, second []corev1.Toleration) []corev1.Toleration {
	all := slices.Concat(first, second)
	var merged []corev1.Toleration
	for i, t := range all {
		covered := slices.ContainsFunc(merged, func(o corev1.Toleration) bool { return toleratesMore(o, t) }) ||
			slices.ContainsFunc(all[i+1:], func(o corev1.Toleration) bool {
				return !equality.Semantic.DeepEqual(o, t) && toleratesMore(o, t)
			})
		if !covered {
			merged = append(merged, t)
		}
	}
	return merged
}

// toleratesMore tells whether a tolerates all that b does.
func toleratesMore(a, b corev1.Toleration) bool {
	switch {
	case equality.Semantic.DeepEqual(a, b):
		return true
	case a.Key != b.Key && (a.Key != "" || a.Operator != corev1.TolerationOpExists):
		return false
	case a.Effect != b.Effect && a.Effect != "":
		return false
	case a.Effect == corev1.TaintEffectNoExecute && a.TolerationSeconds != nil &&
		(b.TolerationSeconds == nil || *b.TolerationSeconds > *a.TolerationSeconds):
		return false
	}
	switch a.Operator {
	case corev1.TolerationOpEqual, "":
		return b.Operator == corev1.TolerationOpEqual && a.Value == b.Value
	case corev1.TolerationOpExists:
		return true
	default:
		return false
	}
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
					if isExtended(name) && !slices.Contains(wanted, string(name)) {
						wanted = append(wanted, string(name))
					}
				}
			}
		}
		slices.Sort(wanted)
		for _, name := range wanted {
			addToleration(pod, corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
		}
		return nil
	}}
}

// isExtended tells whether a resource is one that nodes advertise beyond those that Kubernetes knows.
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) && len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+s)) == 0
}

// limitAntiAffinity refuses pods that want to be alone in more than a node: one such pod could keep all others out of a zone.
func limitAntiAffinity(dependencies) hooks {
	return hooks{validate: func(_ context.Context, a admission.Attributes) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || !mainResource(a) || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		for _, term := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if term.TopologyKey != corev1.LabelHostname {
				return admission.NewForbidden(a, fmt.Errorf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed", term.TopologyKey, corev1.LabelHostname))
			}
		}
		return nil
	}}
}
