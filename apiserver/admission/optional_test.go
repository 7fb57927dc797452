package admission

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

func namespaceWith(annotations map[string]string) []runtime.Object {
	return []runtime.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Annotations: annotations}}}
}

func TestNamespacesThatAreNotThere(t *testing.T) {
	create := request{resource: "configmaps", obj: &corev1.ConfigMap{}}.attributes()
	if err := plant(t, namespaceExists).validate(t.Context(), create); !apierrors.IsNotFound(err) {
		t.Errorf("NamespaceExists without the namespace: %v", err)
	}
	if err := plant(t, namespaceExists, namespaceWith(nil)...).validate(t.Context(), create); err != nil {
		t.Errorf("NamespaceExists with the namespace: %v", err)
	}
	var client interface {
		Get(context.Context, string, metav1.GetOptions) (*corev1.Namespace, error)
	}
	h := plant(t, func(d dependencies) hooks { client = d.client.CoreV1().Namespaces(); return namespaceAutoProvision(d) })
	if err := h.admit(t.Context(), create); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(t.Context(), "ns", metav1.GetOptions{}); err != nil {
		t.Errorf("NamespaceAutoProvision: %v", err)
	}
}

func TestPodNodeSelector(t *testing.T) {
	load := func(config string) func(dependencies) hooks {
		build, err := loadPodNodeSelector(strings.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		return build
	}
	selecting := func(selector map[string]string) *corev1.Pod {
		return podWith(func(p *corev1.Pod) { p.Spec.NodeSelector = selector })
	}
	look := func(p *corev1.Pod) any { return p.Spec.NodeSelector }
	annotated := namespaceWith(map[string]string{nodeSelectorAnnotation: "env=prod"})
	runPods(t, load(`podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "region=west", ns: "env=prod,disk=ssd,region=west"}`), map[string]podCase{
		"annotation":        {objects: annotated, pod: selecting(nil), want: look, equals: map[string]string{"env": "prod"}},
		"cluster's":         {objects: namespaceWith(nil), pod: selecting(nil), want: look, equals: map[string]string{"region": "west"}},
		"and the pod's":     {objects: annotated, pod: selecting(map[string]string{"disk": "ssd"}), want: look, equals: map[string]string{"env": "prod", "disk": "ssd"}},
		"conflict":          {objects: annotated, pod: selecting(map[string]string{"env": "test"}), refused: "conflicts with its namespace node label selector"},
		"not allowed":       {objects: annotated, pod: selecting(map[string]string{"gpu": "yes"}), refused: "conflict with its namespace whitelist"},
		"no such namespace": {pod: selecting(nil), refused: "not found"},
	})
	if _, err := loadPodNodeSelector(strings.NewReader("podNodeSelectorConfig: {}")); err == nil {
		t.Error("a misspelt configuration was read")
	}
}

func TestPodTolerationRestriction(t *testing.T) {
	build, err := loadPodTolerationRestriction(strings.NewReader(`
apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
kind: Configuration
default: [{key: cluster, operator: Exists}]
whitelist: [{key: cluster, operator: Exists}, {key: node.kubernetes.io/memory-pressure, operator: Exists}, {key: a, operator: Equal, value: b}]
`))
	if err != nil {
		t.Fatal(err)
	}
	tolerating := func(ts ...corev1.Toleration) *corev1.Pod {
		return podWith(func(p *corev1.Pod) { p.Spec.Tolerations = ts })
	}
	look := func(p *corev1.Pod) any {
		keys := []string{}
		for _, t := range p.Spec.Tolerations {
			keys = append(keys, t.Key)
		}
		return keys
	}
	own := namespaceWith(map[string]string{defaultTolerations: `[{"key":"own","operator":"Exists"}]`, tolerationsWhitelist: ""})
	runPods(t, build, map[string]podCase{
		"cluster's default":   {objects: namespaceWith(nil), pod: tolerating(), want: look, equals: []string{"cluster"}},
		"namespace's default": {objects: own, pod: tolerating(), want: look, equals: []string{"own"}},
		"no default at all":   {objects: namespaceWith(map[string]string{defaultTolerations: ""}), pod: tolerating(), want: look, equals: []string{}},
		"memory by right": {objects: namespaceWith(nil), pod: podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = list("memory", "1Gi")
		}), want: look, equals: []string{"cluster", corev1.TaintNodeMemoryPressure}},
		"only on create":        {objects: namespaceWith(nil), request: request{operation: admission.Update, old: tolerating()}, pod: tolerating(), want: look, equals: []string{}},
		"allowed":               {objects: namespaceWith(nil), pod: tolerating(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "b"}), want: look, equals: []string{"a", "cluster"}},
		"not allowed":           {objects: namespaceWith(nil), pod: tolerating(corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists}), refused: "conflict with its cluster whitelist"},
		"not in the namespace":  {objects: namespaceWith(map[string]string{tolerationsWhitelist: `[{"key":"y","operator":"Exists"}]`}), pod: tolerating(), refused: "conflict with its namespace whitelist"},
		"no limit in namespace": {objects: own, pod: tolerating(corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists}), want: look, equals: []string{"x", "own"}},
	})
	for name, config := range map[string]string{
		"kind":       "apiVersion: v1\nkind: Configuration",
		"toleration": "apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1\nkind: Configuration\ndefault: [{key: '!', operator: Exists}]",
		"field":      "apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1\nkind: Configuration\ndefaults: []",
	} {
		if _, err := loadPodTolerationRestriction(strings.NewReader(config)); err == nil {
			t.Errorf("a wrong %s was read", name)
		}
	}
}

func TestMergeTolerations(t *testing.T) {
	type ts = []corev1.Toleration
	for name, c := range map[string]struct{ first, second, want ts }{
		"equal":          {ts{{Key: "a", Operator: "Exists"}}, ts{{Key: "a", Operator: "Exists"}}, ts{{Key: "a", Operator: "Exists"}}},
		"covered later":  {ts{{Key: "a", Operator: "Equal", Value: "x"}}, ts{{Key: "a", Operator: "Exists"}}, ts{{Key: "a", Operator: "Exists"}}},
		"covered before": {ts{{Operator: "Exists"}}, ts{{Key: "a", Operator: "Exists", Effect: "NoSchedule"}}, ts{{Operator: "Exists"}}},
		"longer covers": {
			ts{{Key: "a", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](5)}},
			ts{{Key: "a", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](9)}},
			ts{{Key: "a", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](9)}},
		},
		"apart": {ts{{Key: "a", Operator: "Exists", Effect: "NoExecute"}}, ts{{Key: "a", Operator: "Exists", Effect: "NoSchedule"}}, ts{{Key: "a", Operator: "Exists", Effect: "NoExecute"}, {Key: "a", Operator: "Exists", Effect: "NoSchedule"}}},
	} {
		if diff := cmp.Diff(c.want, mergeTolerations(c.first, c.second)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestEventRateLimit(t *testing.T) {
	event := func(namespace, who, about string, dry bool) admission.Attributes {
		obj := &corev1.Event{InvolvedObject: corev1.ObjectReference{Name: about}}
		return admission.NewAttributesRecord(obj, nil, corev1.SchemeGroupVersion.WithKind("Event"), namespace, "e", corev1.SchemeGroupVersion.WithResource("events"),
			"", admission.Create, nil, dry, &user.DefaultInfo{Name: who})
	}
	for kind, other := range map[string]admission.Attributes{
		"Server": nil, "Namespace": event("b", "u", "x", false), "User": event("a", "v", "x", false), "SourceAndObject": event("a", "u", "y", false),
	} {
		now := clocktesting.NewFakePassiveClock(time.Now())
		h := eventRateLimit(eventLimits{Limits: []eventLimit{{Type: kind, QPS: 1, Burst: 2}}}, steppedClock{now})
		send := func(a admission.Attributes) error { return h.validate(t.Context(), a) }
		first := event("a", "u", "x", false)
		for range 2 {
			if err := send(first); err != nil {
				t.Errorf("%s: within the burst: %v", kind, err)
			}
		}
		if err := send(first); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "limit reached on type "+kind) {
			t.Errorf("%s: beyond the burst: %v", kind, err)
		}
		if err := send(event("a", "u", "x", true)); err != nil {
			t.Errorf("%s: a dry run: %v", kind, err)
		}
		if other != nil && send(other) != nil {
			t.Errorf("%s: another bucket is full too", kind)
		}
		now.SetTime(now.Now().Add(time.Second))
		if err := send(first); err != nil {
			t.Errorf("%s: a second later: %v", kind, err)
		}
	}
	_, err := loadEventRateLimit(strings.NewReader("apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: Pod, qps: 0, burst: 0, cacheSize: -1}]"))
	for _, part := range []string{`limits[0].type: Unsupported value: "Pod"`, "limits[0].qps: Invalid value: 0: must be positive", "limits[0].burst", "limits[0].cacheSize"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q", err, part)
		}
	}
	if _, err := loadEventRateLimit(nil); err == nil || !strings.Contains(err.Error(), "must not be empty") {
		t.Errorf("without a configuration: %v", err)
	}
}

// steppedClock is a clock that a rate limiter reads and never sleeps on.
type steppedClock struct{ *clocktesting.FakePassiveClock }

func (steppedClock) Sleep(time.Duration) { panic("a rate limiter of admission must not wait") }

func TestImagePolicyWebhook(t *testing.T) {
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		var review imagepolicyv1alpha1.ImageReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		image := review.Spec.Containers[0].Image
		switch image {
		case "broken":
			http.Error(w, "no", http.StatusBadRequest)
			return
		case "annotated":
			review.Status.Allowed = review.Spec.Annotations["break.image-policy.k8s.io/ticket"] == "7" && len(review.Spec.Annotations) == 1
		default:
			review.Status = imagepolicyv1alpha1.ImageReviewStatus{Allowed: image == "good", Reason: map[string]string{"bad": "no " + image}[image], AuditAnnotations: map[string]string{"k": "v"}}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer server.Close()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	content := `{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"` + server.URL + `","insecure-skip-tls-verify":true}}],
"users":[{"name":"u","user":{}}],"contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}],"current-context":"x"}`
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(more string) func(dependencies) hooks {
		build, err := loadImagePolicy(strings.NewReader(`{"imagePolicy":{"kubeConfigFile":"` + kubeconfig + `"` + more + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return build
	}
	running := func(image string, change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = image
			if change != nil {
				change(p)
			}
		})
	}
	ticket := func(p *corev1.Pod) {
		p.Annotations = map[string]string{"break.image-policy.k8s.io/ticket": "7", "other": "1"}
	}
	runPods(t, load(""), map[string]podCase{
		"allowed":       {pod: running("good", nil)},
		"with a reason": {pod: running("bad", nil), refused: "image policy webhook backend denied one or more images: no bad"},
		"without":       {pod: running("ugly", nil), refused: "one or more images rejected by webhook backend"},
		"annotations":   {pod: running("annotated", ticket)},
		"fails closed":  {pod: running("broken", nil), refused: "forbidden"},
		"ephemeral": {request: request{operation: admission.Update, subresource: "ephemeralcontainers"}, pod: running("good", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: "bad"}}}
		}), refused: "no bad"},
	})
	runPods(t, load(`,"defaultAllow":true`), map[string]podCase{
		"fails open": {pod: running("broken", nil), want: func(p *corev1.Pod) any { return p.Annotations[imagePolicyFailed] }, equals: "true"},
	})
	h, before := plant(t, load("")), asked
	for range 3 {
		if err := h.validate(t.Context(), request{resource: "pods", obj: running("good", nil)}.attributes()); err != nil {
			t.Error(err)
		}
	}
	if asked != before+1 {
		t.Errorf("the same was asked %d times", asked-before)
	}
	for config, want := range map[string]string{
		`{"imagePolicy":{"allowTTL":100000}}`: "valid value is between 1s and 30m0s", `{"imagePolicy":{"kubeConfig":"x"}}`: "unknown field",
	} {
		if _, err := loadImagePolicy(strings.NewReader(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
	if _, err := loadImagePolicy(io.Reader(nil)); err == nil {
		t.Error("no configuration is no error")
	}
}

func TestOwnerPermissions(t *testing.T) {
	owned := func(refs ...metav1.OwnerReference) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", OwnerReferences: refs}}
	}
	ref := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "1"}
	blocking, node, unknown := ref, ref, ref
	blocking.BlockOwnerDeletion = new(true)
	node.APIVersion, node.Kind, node.UID, node.BlockOwnerDeletion = "v1", "Node", "2", new(true)
	unknown.Kind, unknown.BlockOwnerDeletion = "Unknown", new(true)
	h := plant(t, ownerPermissions)
	for name, c := range map[string]struct {
		user     string
		old, obj *corev1.ConfigMap
		refused  string
	}{
		"created":                      {"nobody", nil, owned(ref), ""},
		"nothing changes":              {"nobody", owned(blocking), owned(blocking), ""},
		"changed without the right":    {"nobody", owned(), owned(ref), "cannot set an ownerRef on a resource you can't delete"},
		"changed with the right":       {"deleter", owned(), owned(ref), ""},
		"created blocking":             {"nobody", nil, owned(blocking), "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"},
		"made blocking":                {"deleter", owned(ref), owned(blocking), "you can't set finalizers on"},
		"made blocking with the right": {"finalizer", owned(ref), owned(blocking), ""},
		"of another kind":              {"finalizer", nil, owned(node), "you can't set finalizers on"},
		"of no known kind":             {"finalizer", nil, owned(unknown), "cannot find RESTMapping for APIVersion apps/v1 Kind Unknown"},
		"no longer blocking":           {"deleter", owned(blocking), owned(ref), ""},
	} {
		r := request{resource: "configmaps", obj: c.obj, user: &user.DefaultInfo{Name: c.user}}
		if c.old != nil {
			r.operation, r.old = admission.Update, c.old
		}
		err := h.validate(t.Context(), r.attributes())
		if (err == nil) != (c.refused == "") || (err != nil && !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: got %v, want %q", name, err, c.refused)
		}
	}
}

func TestChangesThatTheNodeMustFollow(t *testing.T) {
	node := func(change func(*corev1.Node)) []runtime.Object {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: list("cpu", "2", "memory", "1Gi")}}
		if change != nil {
			change(n)
		}
		return []runtime.Object{n}
	}
	running := func(generation int64, change func(*corev1.Pod)) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Generation = "n1", generation
			if change != nil {
				change(p)
			}
		})
	}
	asking := func(cpu, memory string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("cpu", cpu, "memory", memory) }
	}
	resize := request{operation: admission.Update, subresource: "resize", old: running(1, nil)}
	windows := node(func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelOSStable: "windows"} })
	runPods(t, podResize, map[string]podCase{
		"fits":         {objects: node(nil), request: resize, pod: running(2, asking("2", "1Gi"))},
		"does not fit": {objects: node(nil), request: resize, pod: running(2, asking("3", "2Gi")), refused: "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"},
		"no change":    {objects: node(nil), request: resize, pod: running(1, asking("3", "2Gi"))},
		"not placed":   {objects: node(nil), request: resize, pod: running(2, func(p *corev1.Pod) { p.Spec.NodeName = ""; asking("3", "2Gi")(p) })},
		"node is gone": {request: resize, pod: running(2, nil), refused: `node "n1" not found`},
		"windows":      {objects: windows, request: resize, pod: running(2, nil), refused: `pod resize is only supported on linux nodes, node "n1" is "windows"`},
	})
	err := plant(t, podResize, node(nil)...).validate(t.Context(), request{
		resource: "pods", operation: admission.Update, subresource: "resize", old: running(1, nil), obj: running(2, asking("3", "1Mi")),
	}.attributes())
	if !apierrors.HasStatusCause(err, "NodeCapacity") {
		t.Errorf("the cause is missing: %v", err)
	}
	whole := func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1")} }
	declared := node(func(n *corev1.Node) { n.Status.DeclaredFeatures = []string{"InPlacePodLevelResourcesVerticalScaling"} })
	runPods(t, nodeFeatures, map[string]podCase{
		"declared":     {objects: declared, request: resize, pod: running(2, whole)},
		"not declared": {objects: node(nil), request: resize, pod: running(2, whole), refused: `pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "n1"`},
		"not needed":   {objects: node(nil), request: resize, pod: running(2, asking("1", "1Gi"))},
	})
}

func TestTopologyLabels(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", "other": "x"}}}
	h := plant(t, podTopologyLabels, node)
	want := map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r"}
	binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	pod := podWith(func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
	loose, elsewhere := podWith(nil), &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n2"}}
	for _, r := range []request{{resource: "pods", subresource: "binding", obj: binding}, {resource: "pods", obj: pod}, {resource: "pods", obj: loose}, {resource: "pods", subresource: "binding", obj: elsewhere}} {
		if err := h.admit(t.Context(), r.attributes()); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]map[string]string{want, want, nil, nil}, []map[string]string{binding.Labels, pod.Labels, loose.Labels, elsewhere.Labels}); diff != "" {
		t.Error(diff)
	}
}

func TestAlwaysPullImages(t *testing.T) {
	pod := func(image string, policy corev1.PullPolicy) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{PullPolicy: policy}}}}
		})
	}
	look := func(p *corev1.Pod) any {
		return []corev1.PullPolicy{p.Spec.Containers[0].ImagePullPolicy, p.Spec.Volumes[0].Image.PullPolicy}
	}
	update := request{operation: admission.Update, old: pod("a", corev1.PullNever)}
	runPods(t, alwaysPullImages, map[string]podCase{
		"created":   {pod: pod("a", corev1.PullNever), want: look, equals: []corev1.PullPolicy{corev1.PullAlways, corev1.PullAlways}},
		"same":      {request: update, pod: pod("a", corev1.PullNever), want: look, equals: []corev1.PullPolicy{corev1.PullNever, corev1.PullNever}},
		"new image": {request: update, pod: pod("b", corev1.PullNever), want: look, equals: []corev1.PullPolicy{corev1.PullAlways, corev1.PullAlways}},
	})
	err := plant(t, alwaysPullImages).validate(t.Context(), request{resource: "pods", obj: pod("a", corev1.PullNever)}.attributes())
	for _, part := range []string{`spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always"`, "spec.volumes[0].image.pullPolicy"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("a webhook's change back: %v", err)
		}
	}
}

func TestAntiAffinityAndExtendedResources(t *testing.T) {
	apart := func(key string) *corev1.Pod {
		return podWith(func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key}}}}
		})
	}
	runPods(t, limitAntiAffinity, map[string]podCase{
		"host": {pod: apart(corev1.LabelHostname)},
		"zone": {pod: apart(corev1.LabelTopologyZone), refused: "has TopologyKey topology.kubernetes.io/zone but only key kubernetes.io/hostname is allowed"},
	})
	runPods(t, extendedResourceToleration, map[string]podCase{
		"device": {
			pod: podWith(func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests = list("cpu", "1", "example.com/gpu", "1", "hugepages-2Mi", "1", "requests.x/y", "1", "kubernetes.io/z", "1")
			}),
			want:   func(p *corev1.Pod) any { return p.Spec.Tolerations },
			equals: []corev1.Toleration{{Key: "example.com/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
		},
	})
}
