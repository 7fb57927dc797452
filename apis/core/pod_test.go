package core

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// parse reads YAML, strictly, so that a misspelt field in a test is an error.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestDefaultPod(t *testing.T) {
	pod := parse[corev1.Pod](t, `
spec:
  hostNetwork: true
  serviceAccount: sa
  initContainers: [{name: i, image: "busybox@sha256:abc"}]
  containers:
  - name: c
    image: example.com:5000/app
    ports: [{containerPort: 80}]
    env: [{name: N, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 100.5m, memory: 1Gi}, requests: {memory: 1Mi}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {grpc: {port: 81}}
  volumes:
  - name: none
  - {name: s, secret: {secretName: s}}
  - {name: h, hostPath: {path: /x}}
  - {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}
  - {name: e, ephemeral: {volumeClaimTemplate: {spec: {resources: {}}}}}
`)
	want := parse[corev1.Pod](t, `
spec:
  hostNetwork: true
  serviceAccount: sa
  serviceAccountName: sa
  dnsPolicy: ClusterFirst
  restartPolicy: Always
  schedulerName: default-scheduler
  terminationGracePeriodSeconds: 30
  securityContext: {}
  enableServiceLinks: true
  initContainers:
  - {name: i, image: "busybox@sha256:abc", imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  containers:
  - name: c
    image: example.com:5000/app
    imagePullPolicy: Always
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    env: [{name: N, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 101m, memory: 1Gi}, requests: {cpu: 101m, memory: 1Mi}}
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    readinessProbe: {grpc: {port: 81, service: ""}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
  volumes:
  - {name: none, emptyDir: {}}
  - {name: s, secret: {secretName: s, defaultMode: 420}}
  - {name: h, hostPath: {path: /x, type: ""}}
  - {name: p, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}
  - {name: e, ephemeral: {volumeClaimTemplate: {spec: {resources: {}, volumeMode: Filesystem}}}}
`)
	quantities := cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })
	DefaultPod(pod)
	if diff := cmp.Diff(want, pod, quantities); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	DefaultPod(pod)
	if diff := cmp.Diff(want, pod, quantities); diff != "" {
		t.Errorf("defaults are not idempotent (-want +got):\n%s", diff)
	}
}

func TestTemplateDefaultsAreFewer(t *testing.T) {
	template := parse[corev1.PodTemplateSpec](t, `spec: {hostNetwork: true, containers: [{name: c, image: x, ports: [{containerPort: 80}], resources: {limits: {cpu: 1}}}]}`)
	DefaultPodTemplateSpec(template)
	if template.Spec.EnableServiceLinks != nil || template.Spec.Containers[0].Resources.Requests != nil || template.Spec.Containers[0].Ports[0].HostPort != 0 {
		t.Errorf("a default of pods shows in a template: %+v", template.Spec)
	}
}

func TestPodLevelDefaults(t *testing.T) {
	cases := map[string]struct{ pod, want string }{
		"requests from containers": {
			`spec: {resources: {limits: {cpu: 4, memory: 4Gi}}, containers: [{name: a, resources: {requests: {cpu: 1}}}, {name: b, resources: {requests: {cpu: 2}}}]}`,
			`{limits: {cpu: 4, memory: 4Gi}, requests: {cpu: 3, memory: 4Gi}}`,
		},
		"huge pages": {
			`spec: {resources: {requests: {cpu: 1}}, containers: [{name: a, resources: {limits: {hugepages-2Mi: 4Mi}}}]}`,
			`{limits: {hugepages-2Mi: 4Mi}, requests: {hugepages-2Mi: 4Mi, cpu: 1}}`,
		},
		"nothing": {`spec: {containers: [{name: a, resources: {requests: {cpu: 1}}}]}`, `null`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := parse[corev1.Pod](t, tc.pod)
			DefaultPod(pod)
			preparePod(pod, nil)
			var want *corev1.ResourceRequirements
			if tc.want != "null" {
				want = parse[corev1.ResourceRequirements](t, tc.want)
			}
			if diff := cmp.Diff(want, pod.Spec.Resources, cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })); diff != "" {
				t.Errorf("pod-level resources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDefaultPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1": corev1.PullIfNotPresent, "r:5000/nginx": corev1.PullAlways,
		"r:5000/nginx:1": corev1.PullIfNotPresent, "nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000": corev1.PullIfNotPresent, "nginx:latest@sha256:0000000000000000000000000000000000000000000000000000000000000000": corev1.PullAlways,
		"Not_An_Image!": corev1.PullIfNotPresent,
		"":              corev1.PullIfNotPresent,
	} {
		if got := defaultPullPolicy(image); got != want {
			t.Errorf("%q: got %s, want %s", image, got, want)
		}
	}
}

func TestComputePodQOS(t *testing.T) {
	cases := map[string]struct {
		spec string
		want corev1.PodQOSClass
	}{
		"nothing":               {`{containers: [{name: a}]}`, corev1.PodQOSBestEffort},
		"zero":                  {`{containers: [{name: a, resources: {requests: {cpu: 0}}}]}`, corev1.PodQOSBestEffort},
		"only storage":          {`{containers: [{name: a, resources: {requests: {ephemeral-storage: 1}}}]}`, corev1.PodQOSBestEffort},
		"limits":                {`{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1}}}]}`, corev1.PodQOSGuaranteed},
		"cpu only":              {`{containers: [{name: a, resources: {limits: {cpu: 1}}}]}`, corev1.PodQOSBurstable},
		"less requested":        {`{containers: [{name: a, resources: {limits: {cpu: 2, memory: 1}, requests: {cpu: 1}}}]}`, corev1.PodQOSBurstable},
		"one of two":            {`{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1}}}, {name: b}]}`, corev1.PodQOSBurstable},
		"init container spoils": {`{initContainers: [{name: i}], containers: [{name: a, resources: {limits: {cpu: 1, memory: 1}}}]}`, corev1.PodQOSBurstable},
		"pod level":             {`{resources: {limits: {cpu: 1, memory: 1}}, containers: [{name: a}]}`, corev1.PodQOSGuaranteed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: *parse[corev1.PodSpec](t, tc.spec)}
			DefaultPod(pod)
			if got := ComputePodQOS(pod); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestPodGrace(t *testing.T) {
	cases := map[string]struct {
		node      string
		phase     corev1.PodPhase
		own, asks *int64
		want      int64
	}{
		"not scheduled": {"", corev1.PodPending, ptr.To[int64](30), ptr.To[int64](10), 0},
		"finished":      {"n", corev1.PodSucceeded, ptr.To[int64](30), nil, 0},
		"own":           {"n", corev1.PodRunning, ptr.To[int64](30), nil, 30},
		"asked":         {"n", corev1.PodRunning, ptr.To[int64](30), ptr.To[int64](5), 5},
		"forced":        {"n", corev1.PodRunning, ptr.To[int64](30), ptr.To[int64](0), 0},
		"negative":      {"n", corev1.PodRunning, ptr.To[int64](-1), nil, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: tc.node, TerminationGracePeriodSeconds: tc.own}, Status: corev1.PodStatus{Phase: tc.phase}}
			options := &metav1.DeleteOptions{GracePeriodSeconds: tc.asks}
			if !podGrace(pod, options) || *options.GracePeriodSeconds != tc.want {
				t.Errorf("got %v, want %d", options.GracePeriodSeconds, tc.want)
			}
		})
	}
}

func TestPreparePod(t *testing.T) {
	pod := parse[corev1.Pod](t, `
metadata: {name: p, labels: {rev: "7"}, annotations: {container.apparmor.security.beta.kubernetes.io/c: localhost/x}}
spec:
  schedulingGates: [{name: g}]
  schedulingGroup: {podGroupName: alpha}
  containers: [{name: c, volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [noexec]}]}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [rev, gone], labelSelector: {}}]
status: {phase: Running, podIP: 1.2.3.4}
`)
	preparePod(pod, nil)
	want := parse[corev1.Pod](t, `
metadata: {name: p, labels: {rev: "7"}, annotations: {container.apparmor.security.beta.kubernetes.io/c: localhost/x}}
spec:
  schedulingGates: [{name: g}]
  containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}], securityContext: {appArmorProfile: {type: Localhost, localhostProfile: x}}}]
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [rev, gone], labelSelector: {matchExpressions: [{key: rev, operator: In, values: ["7"]}]}}
status:
  phase: Pending
  qosClass: BestEffort
  conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated, message: Scheduling is blocked due to non-empty scheduling gates}]
`)
	if at := &pod.Status.Conditions[0].LastTransitionTime; at.IsZero() {
		t.Error("the condition has no time")
	} else {
		*at = metav1.Time{}
	}
	if diff := cmp.Diff(want, pod); diff != "" {
		t.Errorf("prepared pod (-want +got):\n%s", diff)
	}
}

func TestWarnings(t *testing.T) {
	cases := map[string]struct {
		spec string
		want []string
	}{
		"none":             {`{containers: [{name: c, image: x}]}`, nil},
		"hidden variable":  {`{containers: [{name: c, env: [{name: A, value: "1"}, {name: A, value: "$(A)2"}, {name: A, value: "3"}]}]}`, []string{`spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply`}},
		"duplicate port":   {`{containers: [{name: c, ports: [{containerPort: 80}]}, {name: d, ports: [{containerPort: 80}, {containerPort: 80, hostPort: 8080}]}]}`, []string{"spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]", "spec.containers[1].ports[1]: overlapping port definition with spec.containers[0].ports[0]", "spec.containers[1].ports[1]: overlapping port definition with spec.containers[1].ports[0]"}},
		"old node label":   {`{nodeSelector: {beta.kubernetes.io/os: linux}, containers: []}`, []string{`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`}},
		"fraction of byte": {`{containers: [{name: c, resources: {limits: {memory: 200m}}}]}`, []string{`spec.containers[0].resources.limits[memory]: fractional byte value "200m" is invalid, must be an integer`, `spec.containers[0].resources.requests[memory]: fractional byte value "200m" is invalid, must be an integer`}},
		"host aliases":     {`{hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}], imagePullSecrets: [{}, {name: a}, {name: a}], containers: []}`, []string{`spec.hostAliases[1].ip: duplicate ip "1.1.1.1"`, `spec.imagePullSecrets[0].name: invalid empty name ""`, `spec.imagePullSecrets[2].name: duplicate name "a"`}},
		"null selector":    {`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}], containers: []}`, []string{"spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod"}},
		"dead volume":      {`{volumes: [{name: g, gitRepo: {repository: x}}], containers: []}`, []string{"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"}},
		"overlap":          {`{volumes: [{name: foo, projected: {sources: [{configMap: {name: Test, items: [{key: a, path: test}]}}, {serviceAccountToken: {path: test/file}}, {}]}}], containers: []}`, []string{`volume "foo" (Projected) has no sources provided`, `volume "foo" (Projected): overlapping paths: "test/file" (ServiceAccountToken) with "test" (ConfigMap "Test")`}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: *parse[corev1.PodSpec](t, tc.spec)}
			DefaultPod(pod)
			if diff := cmp.Diff(tc.want, warnPod(pod, nil)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if again := warnPod(pod, pod.DeepCopy()); again != nil {
				t.Errorf("an update that changes nothing warns: %v", again)
			}
		})
	}
}

func TestMirrorIP(t *testing.T) {
	cases := map[string]struct{ now, want string }{
		"both set":         {`{podIP: 1.1.1.1, podIPs: [{ip: 1.1.1.1}]}`, `{podIP: 1.1.1.1, podIPs: [{ip: 1.1.1.1}]}`},
		"only the address": {`{podIP: 1.1.1.1}`, `{podIP: 1.1.1.1, podIPs: [{ip: 1.1.1.1}]}`},
		"only the list":    {`{podIPs: [{ip: 1.1.1.1}, {ip: "::1"}]}`, `{podIP: 1.1.1.1, podIPs: [{ip: 1.1.1.1}, {ip: "::1"}]}`},
		"not the same":     {`{podIP: 2.2.2.2, podIPs: [{ip: 1.1.1.1}]}`, `{podIP: 2.2.2.2, podIPs: [{ip: 2.2.2.2}]}`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			now := parse[corev1.PodStatus](t, tc.now)
			mirrorIP(now)
			if diff := cmp.Diff(parse[corev1.PodStatus](t, tc.want), now); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}
