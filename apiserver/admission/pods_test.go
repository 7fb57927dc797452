package admission

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// podCase sends a pod through a plugin: what it looks like then, or why it was refused.
type podCase struct {
	objects []runtime.Object
	request request
	pod     *corev1.Pod
	want    func(*corev1.Pod) any // what to look at
	equals  any
	refused string // part of the error
}

func runPods(t *testing.T, build func(dependencies) hooks, cases map[string]podCase) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := plant(t, build, c.objects...)
			c.request.resource, c.request.obj = "pods", c.pod
			err := h.both(context.Background(), c.request.attributes())
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, want an error with %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				if diff := cmp.Diff(c.equals, c.want(c.pod)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, isDefault bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: isDefault}
	}
	never := class("never", 5, false)
	never.PreemptionPolicy = new(corev1.PreemptNever)
	named := func(name string, value *int32) *corev1.Pod {
		return podWith(func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = name, value })
	}
	type got struct {
		Name   string
		Value  int32
		Policy corev1.PreemptionPolicy
	}
	look := func(p *corev1.Pod) any {
		return got{p.Spec.PriorityClassName, ptr.Deref(p.Spec.Priority, -1), ptr.Deref(p.Spec.PreemptionPolicy, "")}
	}
	old := named("high", ptr.To[int32](100))
	runPods(t, priority, map[string]podCase{
		"none":           {pod: named("", nil), want: look, equals: got{"", 0, corev1.PreemptLowerPriority}},
		"default":        {objects: []runtime.Object{class("d", 7, true)}, pod: named("", nil), want: look, equals: got{"d", 7, corev1.PreemptLowerPriority}},
		"lowest default": {objects: []runtime.Object{class("d", 7, true), class("e", 6, true)}, pod: named("", nil), want: look, equals: got{"e", 6, corev1.PreemptLowerPriority}},
		"by name":        {objects: []runtime.Object{never}, pod: named("never", nil), want: look, equals: got{"never", 5, corev1.PreemptNever}},
		"unknown":        {pod: named("x", nil), refused: "no PriorityClass with name x was found"},
		"number agrees":  {objects: []runtime.Object{class("h", 9, false)}, pod: named("h", ptr.To[int32](9)), want: look, equals: got{"h", 9, corev1.PreemptLowerPriority}},
		"number differs": {objects: []runtime.Object{class("h", 9, false)}, pod: named("h", ptr.To[int32](8)), refused: "computed 9 from the given PriorityClass name"},
		"kept on update": {request: request{operation: admission.Update, old: old}, pod: named("high", nil), want: look, equals: got{"high", 100, ""}},
	})
}

func TestSecondDefaultPriorityClass(t *testing.T) {
	first := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "a"}, GlobalDefault: true}
	h := plant(t, priority, first)
	for name, want := range map[string]bool{"a": true, "b": false} {
		obj := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, GlobalDefault: true}
		err := h.validate(context.Background(), request{resource: "priorityclasses.scheduling.k8s.io", obj: obj}.attributes())
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDefaultTolerationSeconds(t *testing.T) {
	look := func(p *corev1.Pod) any {
		var keys []string
		for _, t := range p.Spec.Tolerations {
			keys = append(keys, t.Key)
		}
		return keys
	}
	tolerating := func(ts ...corev1.Toleration) *corev1.Pod {
		return podWith(func(p *corev1.Pod) { p.Spec.Tolerations = ts })
	}
	seconds := &TolerationSeconds{NotReady: 7, Unreachable: 9}
	runPods(t, seconds.defaultTolerationSeconds, map[string]podCase{
		"seconds": {pod: tolerating(), want: func(p *corev1.Pod) any {
			return []int64{*p.Spec.Tolerations[0].TolerationSeconds, *p.Spec.Tolerations[1].TolerationSeconds}
		}, equals: []int64{7, 9}},
		"none":       {pod: tolerating(), want: look, equals: []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}},
		"one":        {pod: tolerating(corev1.Toleration{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}), want: look, equals: []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady}},
		"everything": {pod: tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists}), want: look, equals: []string{""}},
		"other":      {pod: tolerating(corev1.Toleration{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}), want: look, equals: []string{corev1.TaintNodeNotReady, corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}},
	})
}

func TestRuntimeClass(t *testing.T) {
	class := &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Overhead: &nodev1.Overhead{PodFixed: list("cpu", "10m")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}},
	}
	in := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = &name
			if change != nil {
				change(p)
			}
		})
	}
	objects := []runtime.Object{class}
	runPods(t, runtimeClass, map[string]podCase{
		"overhead":         {objects: objects, pod: in("vm", nil), want: func(p *corev1.Pod) any { return p.Spec.Overhead }, equals: list("cpu", "10m")},
		"selector":         {objects: objects, pod: in("vm", nil), want: func(p *corev1.Pod) any { return p.Spec.NodeSelector }, equals: map[string]string{"vm": "yes"}},
		"toleration":       {objects: objects, pod: in("vm", nil), want: func(p *corev1.Pod) any { return len(p.Spec.Tolerations) }, equals: 1},
		"unknown":          {pod: in("x", nil), refused: `RuntimeClass "x" not found`},
		"conflict":         {objects: objects, pod: in("vm", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"vm": "no"} }), refused: "conflict: runtimeClass.scheduling.nodeSelector"},
		"other overhead":   {objects: objects, pod: in("vm", func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }), refused: "doesn't match RuntimeClass's defined Overhead"},
		"overhead without": {pod: podWith(func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }), refused: "without corresponding RuntimeClass"},
	})
}

func TestLimitRanger(t *testing.T) {
	limits := func(items ...corev1.LimitRangeItem) []runtime.Object {
		return []runtime.Object{&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: items}}}
	}
	container := func(item corev1.LimitRangeItem) []runtime.Object {
		item.Type = corev1.LimitTypeContainer
		return limits(item)
	}
	asking := func(requests, lim corev1.ResourceList) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: lim}
		})
	}
	look := func(p *corev1.Pod) any { return p.Spec.Containers[0].Resources }
	defaults := corev1.LimitRangeItem{DefaultRequest: list("cpu", "100m"), Default: list("cpu", "500m", "memory", "1Gi")}
	runPods(t, limitRanger, map[string]podCase{
		"defaults": {
			objects: container(defaults), pod: podWith(nil), want: look,
			equals: corev1.ResourceRequirements{Requests: list("cpu", "100m"), Limits: list("cpu", "500m", "memory", "1Gi")},
		},
		"own figures stay": {
			objects: container(defaults), pod: asking(list("cpu", "300m"), list("cpu", "300m")), want: look,
			equals: corev1.ResourceRequirements{Requests: list("cpu", "300m"), Limits: list("cpu", "300m", "memory", "1Gi")},
		},
		"note": {
			objects: container(defaults), pod: podWith(nil), want: func(p *corev1.Pod) any { return p.Annotations[limitRangerAnnotation] },
			equals: "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c",
		},
		"below minimum": {objects: container(corev1.LimitRangeItem{Min: list("cpu", "50m")}), pod: asking(list("cpu", "10m"), nil), refused: "minimum cpu usage per Container is 50m, but request is 10m"},
		"no minimum":    {objects: container(corev1.LimitRangeItem{Min: list("cpu", "50m")}), pod: podWith(nil), refused: "No request is specified"},
		"above maximum": {objects: container(corev1.LimitRangeItem{Max: list("cpu", "1")}), pod: asking(nil, list("cpu", "2")), refused: "maximum cpu usage per Container is 1, but limit is 2"},
		"ratio":         {objects: container(corev1.LimitRangeItem{MaxLimitRequestRatio: list("cpu", "2")}), pod: asking(list("cpu", "100m"), list("cpu", "300m")), refused: "provided ratio is 3"},
		"sum of pod": {objects: limits(corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: list("cpu", "1")}), pod: podWith(func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Limits: list("cpu", "600m")}}, {Name: "b", Resources: corev1.ResourceRequirements{Limits: list("cpu", "600m")}}}
		}), refused: "maximum cpu usage per Pod is 1, but limit is 1200m"},
		"later default wins": {
			objects: limits(corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("cpu", "1")}, corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("cpu", "2")}),
			pod:     podWith(nil), want: func(p *corev1.Pod) any { return p.Spec.Containers[0].Resources.Limits }, equals: list("cpu", "2"),
		},
		"overhead does not count": {objects: limits(corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: list("cpu", "1")}), pod: podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources, p.Spec.Overhead = corev1.ResourceRequirements{Requests: list("cpu", "1"), Limits: list("cpu", "1")}, list("cpu", "1")
		})},
		"deleted object is let go": {objects: container(corev1.LimitRangeItem{Max: list("cpu", "1")}), request: request{operation: admission.Update, subresource: "resize", old: podWith(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, pod: asking(nil, list("cpu", "2"))},
		"update is let through":    {objects: container(corev1.LimitRangeItem{Max: list("cpu", "1")}), request: request{operation: admission.Update, old: podWith(nil)}, pod: asking(nil, list("cpu", "2"))},
		"resize is judged":         {objects: container(corev1.LimitRangeItem{Max: list("cpu", "1")}), request: request{operation: admission.Update, subresource: "resize", old: podWith(nil)}, pod: asking(nil, list("cpu", "2")), refused: "maximum cpu"},
	})
}

func TestServiceAccount(t *testing.T) {
	account := func(name string, change func(*corev1.ServiceAccount)) runtime.Object {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		if change != nil {
			change(sa)
		}
		return sa
	}
	objects := []runtime.Object{account("default", nil)}
	mounts := func(p *corev1.Pod) any {
		n := 0
		for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
			for _, m := range c.VolumeMounts {
				if m.MountPath == tokenMountPath && m.ReadOnly && strings.HasPrefix(m.Name, tokenVolumePrefix) {
					n++
				}
			}
		}
		return [2]int{n, len(p.Spec.Volumes)}
	}
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			if change != nil {
				change(p)
			}
		})
	}
	strict := []runtime.Object{account("default", func(sa *corev1.ServiceAccount) {
		sa.Annotations, sa.Secrets = map[string]string{enforceMountable: "true"}, []corev1.ObjectReference{{Name: "listed"}}
	})}
	using := func(secret string) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
		})
	}
	runPods(t, serviceAccount, map[string]podCase{
		"default account": {objects: objects, pod: podWith(nil), want: func(p *corev1.Pod) any { return p.Spec.ServiceAccountName }, equals: "default"},
		"token":           {objects: objects, pod: podWith(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} }), want: mounts, equals: [2]int{2, 1}},
		"own mount": {objects: objects, pod: podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: tokenMountPath}}
		}), want: mounts, equals: [2]int{0, 0}},
		"pod says no": {objects: objects, pod: podWith(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = new(false) }), want: mounts, equals: [2]int{0, 0}},
		"account says no": {
			objects: []runtime.Object{account("default", func(sa *corev1.ServiceAccount) { sa.AutomountServiceAccountToken = new(false) })},
			pod:     podWith(nil), want: mounts, equals: [2]int{0, 0},
		},
		"pod decides": {
			objects: []runtime.Object{account("default", func(sa *corev1.ServiceAccount) { sa.AutomountServiceAccountToken = new(false) })},
			pod:     podWith(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = new(true) }), want: mounts, equals: [2]int{1, 1},
		},
		"pull secrets": {objects: []runtime.Object{account("default", func(sa *corev1.ServiceAccount) {
			sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		})}, pod: podWith(nil), want: func(p *corev1.Pod) any { return p.Spec.ImagePullSecrets }, equals: []corev1.LocalObjectReference{{Name: "pull"}}},
		"unknown account":               {objects: objects, pod: podWith(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), refused: "error looking up service account ns/x: "},
		"secret that the account lists": {objects: strict, pod: using("listed")},
		"secret that it does not list":  {objects: strict, pod: using("other"), refused: `volume with secret.secretName="other" is not allowed because service account default does not reference that secret`},
		"environment that it does not list": {objects: strict, pod: podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}
		}), refused: `container c with envFrom referencing secret.secretName="x" is not allowed`},
		"ephemeral container": {objects: strict, request: request{operation: admission.Update, subresource: "ephemeralcontainers", old: podWith(nil)}, pod: podWith(func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "default"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Env: []corev1.EnvVar{
				{Name: "K", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}},
			}}}}
		}), refused: `ephemeral container e with envVar K referencing secret.secretName="x" is not allowed`},
		"account by its old name": {objects: objects, pod: podWith(nil), want: func(p *corev1.Pod) any { return p.Spec.DeprecatedServiceAccount }, equals: "default"},
		"mirror":                  {pod: mirror(nil), want: func(p *corev1.Pod) any { return p.Spec.ServiceAccountName }, equals: ""},
		"mirror with account":     {pod: mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), refused: "may not reference service accounts"},
		"mirror with a secret": {pod: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		}), refused: "may not reference secrets"},
	})
}

func TestTokenVolume(t *testing.T) {
	volume := tokenVolume("kube-api-access-x")
	sources := volume.Projected.Sources
	if len(sources) != 3 || *sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || sources[0].ServiceAccountToken.Path != "token" ||
		sources[1].ConfigMap.Name != "kube-root-ca.crt" || sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" ||
		*volume.Projected.DefaultMode != 0o644 {
		t.Errorf("unexpected volume: %v", volume)
	}
}
