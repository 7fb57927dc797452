package quota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func asking(requests, limits corev1.ResourceList) *corev1.Pod {
	return pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	})
}

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestUsage(t *testing.T) {
	registry := generic.NewRegistry(ForAdmission(Devices{}).Evaluators())
	pods := newPods(nil, clocktesting.NewFakePassiveClock(now))
	get := func(group, resource string) quotav1.Evaluator {
		return registry.Get(schema.GroupResource{Group: group, Resource: resource})
	}
	leaving := func(ago time.Duration) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			at := metav1.NewTime(now.Add(-ago))
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, ptr.To[int64](30)
		})
	}
	service := func(kind corev1.ServiceType, allocate *bool, nodePort int32) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: allocate, Ports: []corev1.ServicePort{{NodePort: nodePort}, {}}}}
	}
	claim := &corev1.PersistentVolumeClaim{
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("gold"), Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}},
	}
	shrunk := claim.DeepCopy()
	shrunk.Status.AllocatedResources = list("storage", "2Gi")
	devices := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Count: 2}},
		{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gpu", Count: 1}, {DeviceClassName: "tpu", Count: 4}}},
	}}}}
	asker := asking(list("example.com/gpu", "2"), nil)
	asker.Name, asker.UID = "asker", "asker"
	known := Devices{
		Classes: func() []*resourcev1.DeviceClass {
			return []*resourcev1.DeviceClass{{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: new("example.com/gpu")}}}
		},
		Pod:    func(string, string) *corev1.Pod { return asker },
		Claims: func(string) []*resourcev1.ResourceClaim { return nil },
	}
	ofPod := devices.DeepCopy()
	ofPod.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	ofPod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(asker, corev1.SchemeGroupVersion.WithKind("Pod"))}
	stray := ofPod.DeepCopy()
	stray.OwnerReferences[0].UID = "another"
	cases := map[string]struct {
		evaluator quotav1.Evaluator
		obj       runtime.Object
		want      corev1.ResourceList
	}{
		"plain pod": {pods, pod(nil), list("count/pods", "1", "pods", "1")},
		"requests and limits": {
			pods, asking(list("cpu", "1", "memory", "1Gi", "example.com/gpu", "2", "hugepages-2Mi", "4Mi"), list("cpu", "2", "hugepages-2Mi", "4Mi")),
			list("count/pods", "1", "pods", "1", "cpu", "1", "requests.cpu", "1", "memory", "1Gi", "requests.memory", "1Gi", "limits.cpu", "2",
				"requests.example.com/gpu", "2", "hugepages-2Mi", "4Mi", "requests.hugepages-2Mi", "4Mi"),
		},
		"finished pod":         {pods, pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), list("count/pods", "1")},
		"pod within its grace": {pods, leaving(10 * time.Second), list("count/pods", "1", "pods", "1")},
		"pod past its grace":   {pods, leaving(40 * time.Second), list("count/pods", "1")},
		"cluster IP":           {get("", "services"), service("ClusterIP", nil, 0), list("count/services", "1", "services", "1", "services.nodeports", "0", "services.loadbalancers", "0")},
		"node port":            {get("", "services"), service("NodePort", nil, 0), list("count/services", "1", "services", "1", "services.nodeports", "2", "services.loadbalancers", "0")},
		"load balancer":        {get("", "services"), service("LoadBalancer", nil, 0), list("count/services", "1", "services", "1", "services.nodeports", "2", "services.loadbalancers", "1")},
		"without node ports":   {get("", "services"), service("LoadBalancer", new(false), 30000), list("count/services", "1", "services", "1", "services.nodeports", "1", "services.loadbalancers", "1")},
		"claim": {get("", "persistentvolumeclaims"), claim, list("count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "requests.storage", "1Gi",
			"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "gold.storageclass.storage.k8s.io/requests.storage", "1Gi")},
		"claim that was larger": {get("", "persistentvolumeclaims"), shrunk, list("count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "requests.storage", "2Gi",
			"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "gold.storageclass.storage.k8s.io/requests.storage", "2Gi")},
		"devices": {get("resource.k8s.io", "resourceclaims"), devices, list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "3", "tpu.deviceclass.resource.k8s.io/devices", "4")},
		"devices of an extended resource": {newResourceClaims(nil, known), devices, list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "3",
			"tpu.deviceclass.resource.k8s.io/devices", "4", "requests.deviceclass.resource.kubernetes.io/gpu", "3", "requests.example.com/gpu", "3")},
		"devices charged to the pod": {newResourceClaims(nil, known), ofPod, list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "3",
			"tpu.deviceclass.resource.k8s.io/devices", "4", "requests.deviceclass.resource.kubernetes.io/gpu", "3", "requests.example.com/gpu", "1")},
		"devices of no pod": {newResourceClaims(nil, known), stray, list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "3",
			"tpu.deviceclass.resource.k8s.io/devices", "4", "requests.deviceclass.resource.kubernetes.io/gpu", "3", "requests.example.com/gpu", "3")},
		"config map": {get("", "configmaps"), &corev1.ConfigMap{}, list("count/configmaps", "1", "configmaps", "1")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := c.evaluator.Usage(c.obj)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			names := c.evaluator.MatchingResources(quotav1.ResourceNames(got))
			if len(names) != len(got) {
				t.Errorf("uses %v but counts only %v", quotav1.ResourceNames(got), names)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	pods := newPods(nil, clocktesting.NewFakePassiveClock(now))
	with := func(scope corev1.ResourceQuotaScope, operator corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: operator, Values: values}
	}
	classy := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	far := pod(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}},
		}}}
	})
	short := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) })
	cases := map[string]struct {
		scope corev1.ScopedResourceSelectorRequirement
		pod   *corev1.Pod
		want  bool
	}{
		"terminating":           {with("Terminating", "Exists"), short, true},
		"not terminating":       {with("NotTerminating", "Exists"), short, false},
		"unbounded":             {with("NotTerminating", "Exists"), pod(nil), true},
		"best effort":           {with("BestEffort", "Exists"), pod(nil), true},
		"burstable":             {with("BestEffort", "Exists"), asking(list("cpu", "1"), nil), false},
		"not best effort":       {with("NotBestEffort", "Exists"), asking(nil, list("memory", "1Gi")), true},
		"other resource, best":  {with("BestEffort", "Exists"), asking(list("ephemeral-storage", "1Gi"), nil), true},
		"some class":            {with("PriorityClass", "Exists"), classy, true},
		"no class":              {with("PriorityClass", "Exists"), pod(nil), false},
		"class in":              {with("PriorityClass", "In", "low", "high"), classy, true},
		"class not in":          {with("PriorityClass", "NotIn", "low"), classy, true},
		"no class is not in":    {with("PriorityClass", "NotIn", "low"), pod(nil), true},
		"class does not exist":  {with("PriorityClass", "DoesNotExist"), pod(nil), true},
		"affinity elsewhere":    {with("CrossNamespacePodAffinity", "Exists"), far, true},
		"no affinity":           {with("CrossNamespacePodAffinity", "Exists"), pod(nil), false},
		"scope of another kind": {with("VolumeAttributesClass", "Exists"), pod(nil), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := pods.MatchingScopes(c.pod, []corev1.ScopedResourceSelectorRequirement{c.scope})
			if err != nil || (len(got) == 1) != c.want {
				t.Errorf("got %v %v", got, err)
			}
		})
	}
}

func TestConstraints(t *testing.T) {
	pods := newPods(nil, clocktesting.NewFakePassiveClock(now))
	limited := []corev1.ResourceName{"limits.cpu", "limits.memory", "pods"}
	err := pods.Constraints(limited, pod(nil))
	if err == nil || err.Error() != "must specify limits.cpu for: c; limits.memory for: c" {
		t.Errorf("got %v", err)
	}
	if err := pods.Constraints(limited, asking(nil, list("cpu", "1", "memory", "1Gi"))); err != nil {
		t.Error(err)
	}
	whole := pod(func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", "1Gi")}
	})
	if err := pods.Constraints(limited, whole); err != nil {
		t.Error(err)
	}
}

func TestHandles(t *testing.T) {
	registry := generic.NewRegistry(ForAdmission(Devices{}).Evaluators())
	for name, c := range map[string]struct {
		resource, subresource string
		operation             admission.Operation
		want                  bool
	}{
		"pod":         {"pods", "", admission.Create, true},
		"pod update":  {"pods", "", admission.Update, false},
		"pod resize":  {"pods", "resize", admission.Update, true},
		"pod status":  {"pods", "status", admission.Update, false},
		"service":     {"services", "", admission.Update, true},
		"claim grows": {"persistentvolumeclaims", "", admission.Update, true},
		"claim goes":  {"persistentvolumeclaims", "", admission.Delete, false},
	} {
		a := admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "ns", "x", corev1.SchemeGroupVersion.WithResource(c.resource), c.subresource, c.operation, nil, false, nil)
		if got := registry.Get(corev1.Resource(c.resource)).Handles(a); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestHandlesMoves(t *testing.T) {
	registry := generic.NewRegistry(ForAdmission(Devices{}).Evaluators())
	claim := func(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{}
		change(c)
		return c
	}
	plain := claim(func(*corev1.PersistentVolumeClaim) {})
	deadline := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64) })
	for name, c := range map[string]struct {
		resource, subresource string
		obj, old              runtime.Object
		want                  bool
	}{
		"pod gets a deadline":  {"pods", "", deadline, pod(nil), true},
		"pod keeps a deadline": {"pods", "", deadline, deadline, false},
		"claim's allocation": {"persistentvolumeclaims", "status", claim(func(c *corev1.PersistentVolumeClaim) {
			c.Status.AllocatedResources = list("storage", "1Gi")
		}), plain, true},
		"claim's class": {"persistentvolumeclaims", "status", claim(func(c *corev1.PersistentVolumeClaim) {
			c.Status.CurrentVolumeAttributesClassName = new(string)
		}), plain, true},
		"claim's phase": {"persistentvolumeclaims", "status", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimBound }), plain, false},
	} {
		a := admission.NewAttributesRecord(c.obj, c.old, schema.GroupVersionKind{}, "ns", "x", corev1.SchemeGroupVersion.WithResource(c.resource), c.subresource, admission.Update, nil, false, nil)
		if got := registry.Get(corev1.Resource(c.resource)).Handles(a); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestCountForController(t *testing.T) {
	objects := []runtime.Object{asking(list("cpu", "1"), nil), asking(list("cpu", "500m"), nil), pod(nil)}
	configuration := ForController(func(r schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
		if r.Resource != "pods" || namespace != "ns" {
			t.Errorf("listed %v in %q", r, namespace)
		}
		return objects, nil
	}, Devices{})
	pods := generic.NewRegistry(configuration.Evaluators()).Get(corev1.Resource("pods"))
	stats, err := pods.UsageStats(quotav1.UsageStatsOptions{
		Namespace: "ns", Resources: []corev1.ResourceName{"pods", "requests.cpu"}, Scopes: []corev1.ResourceQuotaScope{"NotBestEffort"},
	})
	if err != nil {
		t.Fatal(err)
	}
	cpu, count := stats.Used["requests.cpu"], stats.Used["pods"]
	if cpu.Cmp(resource.MustParse("1500m")) != 0 || count.Value() != 2 {
		t.Errorf("counted %v", stats.Used)
	}
}
