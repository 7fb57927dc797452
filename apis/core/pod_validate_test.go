package core

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// validPod returns a pod with one container, defaulted, for tests to break.
func validPod(mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx:1"}}},
	}
	for _, m := range mutate {
		m(p)
	}
	DefaultPod(p)
	return p
}

func messages(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

func first(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

func init1(p *corev1.Pod) *corev1.Container {
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "busybox:1"}}
	return &p.Spec.InitContainers[0]
}

func volume1(name string, source corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
}

func security(p *corev1.Pod) *corev1.PodSecurityContext {
	p.Spec.SecurityContext = &corev1.PodSecurityContext{}
	return p.Spec.SecurityContext
}

// quantities builds a resource list from name and amount in turn.
func quantities(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func TestValidatePod(t *testing.T) {
	exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	cases := map[string]struct {
		mutate func(*corev1.Pod)
		want   []string
	}{
		"valid":         {func(*corev1.Pod) {}, nil},
		"no containers": {func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		"no name":       {func(p *corev1.Pod) { first(p).Name = "" }, []string{"spec.containers[0].name: Required value"}},
		"bad name": {func(p *corev1.Pod) { first(p).Name = "C_1" }, []string{
			`spec.containers[0].name: Invalid value: "C_1": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', ` +
				`and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
		}},
		"duplicate name": {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, *first(p)) }, []string{
			`spec.containers[1].name: Duplicate value: "c"`,
		}},
		"init named like regular": {func(p *corev1.Pod) { init1(p).Name = "c" }, []string{`spec.initContainers[0].name: Duplicate value: "c"`}},
		"no image":                {func(p *corev1.Pod) { first(p).Image = "" }, []string{"spec.containers[0].image: Required value"}},
		"padded image": {func(p *corev1.Pod) { first(p).Image = " nginx" }, []string{
			`spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace`,
		}},
		"pull policy": {func(p *corev1.Pod) { first(p).ImagePullPolicy = "Sometimes" }, []string{
			`spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`,
		}},
		"restart policy": {func(p *corev1.Pod) { p.Spec.RestartPolicy = "Once" }, []string{
			`spec.restartPolicy: Unsupported value: "Once": supported values: "Always", "OnFailure", "Never"`,
		}},
		"dns policy": {func(p *corev1.Pod) { p.Spec.DNSPolicy = "Guess" }, []string{
			`spec.dnsPolicy: Unsupported value: "Guess": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
		}},
		"dns none without config": {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, []string{
			"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
		}},
		"dns config": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "x", "1.1.1.2", "1.1.1.3"}, Searches: []string{"a_b.c", ".", "-x"}, Options: []corev1.PodDNSConfigOption{{}}}
		}, []string{
			`spec.dnsConfig.nameservers: Invalid value: ["1.1.1.1","x","1.1.1.2","1.1.1.3"]: must not have more than 3 nameservers`,
			`spec.dnsConfig.nameservers[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.dnsConfig.searches[2]: Invalid value: "-x": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', ` +
				`and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')`,
			"spec.dnsConfig.options[0]: Required value: must not be empty",
		}},
		"deadline": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0) }, []string{
			"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
		}},
		"ports": {func(p *corev1.Pod) {
			first(p).Ports = []corev1.ContainerPort{
				{Name: "UP", ContainerPort: 0}, {ContainerPort: 70000, HostPort: 1}, {ContainerPort: 2, HostPort: 1, Protocol: "tcp"}, {ContainerPort: 3, HostPort: 1},
			}
		}, []string{
			`spec.containers[0].ports[0].name: Invalid value: "UP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			`spec.containers[0].ports[0].name: Invalid value: "UP": must contain at least one letter (a-z)`,
			"spec.containers[0].ports[0].containerPort: Required value",
			"spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
			`spec.containers[0].ports[2].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`,
			`spec.containers[0].ports[3].hostPort: Duplicate value: "TCP//1"`,
		}},
		"host network port": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			first(p).Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
		}, []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		"env": {func(p *corev1.Pod) {
			first(p).Env = []corev1.EnvVar{
				{Name: ""},
				{Name: "A=B"},
				{Name: "X", Value: "v", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				{Name: "Y", ValueFrom: &corev1.EnvVarSource{}},
				{Name: "Z", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}},
				{Name: "Q", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "a/b"}}},
				{Name: "R", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("2")}}},
			}
		}, []string{
			"spec.containers[0].env[0].name: Required value",
			`spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			"spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			"spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			`spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", ` +
				`"metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			`spec.containers[0].env[5].valueFrom.secretKeyRef.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
			`spec.containers[0].env[5].valueFrom.secretKeyRef.key: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' ` +
				`(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`,
			`spec.containers[0].env[6].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`,
		}},
		"labels in env by key": {func(p *corev1.Pod) {
			first(p).Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}}}
		}, nil},
		"env from nothing": {func(p *corev1.Pod) { first(p).EnvFrom = []corev1.EnvFromSource{{}} }, []string{
			"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
		}},
		"mounts": {func(p *corev1.Pod) {
			first(p).VolumeMounts = []corev1.VolumeMount{
				{Name: "gone", MountPath: "/a"},
				{Name: "v", MountPath: "/a", SubPath: "../x"},
				{Name: "v", MountPath: "/b", MountPropagation: new(corev1.MountPropagationBidirectional)},
				{Name: "v", MountPath: "/c", RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)},
			}
			volume1("v", corev1.VolumeSource{})(p)
		}, []string{
			`spec.containers[0].volumeMounts[0].name: Not found: "gone"`,
			`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique`,
			`spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain '..'`,
			"spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
			"spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
		}},
		"devices": {func(p *corev1.Pod) {
			volume1("v", corev1.VolumeSource{})(p)
			first(p).VolumeDevices = []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
		}, []string{
			`spec.containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`,
		}},
		"volume names": {func(p *corev1.Pod) {
			for _, name := range []string{"", "v", "v"} {
				volume1(name, corev1.VolumeSource{})(p)
			}
		}, []string{"spec.volumes[0].name: Required value", `spec.volumes[2].name: Duplicate value: "v"`}},
		"two sources": {volume1("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}), []string{
			"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
		}},
		"host path type": {volume1("v", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b", Type: new(corev1.HostPathType("Blob"))}}), []string{
			`spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'`,
			`spec.volumes[0].hostPath.type: Unsupported value: "Blob": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`,
		}},
		"secret volume": {volume1("v", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{DefaultMode: ptr.To[int32](0o1000), Items: []corev1.KeyToPath{{Path: "..x"}}}}), []string{
			"spec.volumes[0].secret.secretName: Required value",
			"spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
			"spec.volumes[0].secret.items[0].key: Required value",
			`spec.volumes[0].secret.items[0].path: Invalid value: "..x": must not start with '..'`,
		}},
		"projected": {volume1("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](1)}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "a", Path: "x"}, {Key: "b", Path: "x"}}}},
		}}}), []string{
			"spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
			`spec.volumes[0].projected: Invalid value: "s": conflicting duplicate paths`,
		}},
		"downward": {volume1("v", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "p"}}}}), []string{
			"spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
		}},
		"empty dir limit": {volume1("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("-1"))}}), []string{
			"spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
		}},
		"probes": {func(p *corev1.Pod) {
			first(p).LivenessProbe = &corev1.Probe{ProbeHandler: exec, SuccessThreshold: 2}
			first(p).ReadinessProbe = &corev1.Probe{PeriodSeconds: -1, TerminationGracePeriodSeconds: ptr.To[int64](5)}
			first(p).StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
				HTTPGet:   &corev1.HTTPGetAction{Port: intstr.FromInt32(0), Scheme: "http", HTTPHeaders: []corev1.HTTPHeader{{Name: "a b"}}},
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("x")},
			}}
		}, []string{
			"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
			"spec.containers[0].readinessProbe: Required value: must specify a handler type",
			"spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
			"spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
			"spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
			`spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "http": supported values: "HTTP", "HTTPS"`,
			`spec.containers[0].startupProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')`,
			"spec.containers[0].startupProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
		}},
		"sleep": {func(p *corev1.Pod) {
			first(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}, StopSignal: new(corev1.SIGTERM)}
		}, []string{
			"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
			"spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
		}},
		"init container": {func(p *corev1.Pod) {
			c := init1(p)
			c.LivenessProbe = &corev1.Probe{ProbeHandler: exec}
			c.Lifecycle = &corev1.Lifecycle{}
		}, []string{
			"spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
			"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
		}},
		"sidecar with probe": {func(p *corev1.Pod) {
			c := init1(p)
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			c.LivenessProbe = &corev1.Probe{ProbeHandler: exec}
		}, nil},
		"resources": {func(p *corev1.Pod) {
			first(p).Resources = corev1.ResourceRequirements{
				Limits:   quantities("cpu", "1", "memory", "-1", "example.com/gpu", "2"),
				Requests: quantities("cpu", "2", "foo", "1", "example.com/gpu", "1", "memory", "-1"),
			}
		}, []string{
			`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`,
			`spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2`,
		}},
		"huge pages alone": {func(p *corev1.Pod) {
			first(p).Resources = corev1.ResourceRequirements{Limits: quantities("hugepages-2Mi", "3Mi")}
		}, []string{
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			"spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
		}},
		"claims": {func(p *corev1.Pod) {
			first(p).Resources.Claims = []corev1.ResourceClaim{{Name: "x"}}
		}, []string{`spec.containers[0].resources.claims[0]: Not found: "x": must be one of the names in pod.spec.resourceClaims which is empty`}},
		"pod claims": {func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}, {Name: "x", ResourceClaimName: new("c")}}
		}, []string{
			"spec.resourceClaims[0]: Invalid value: {\"name\":\"x\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
			`spec.resourceClaims[1].name: Duplicate value: "x"`,
		}},
		"pod resources": {func(p *corev1.Pod) {
			first(p).Resources.Requests = quantities("cpu", "2")
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "1", "ephemeral-storage", "1")}
		}, []string{
			`spec.resources.requests[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"`,
			`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`,
		}},
		"security": {func(p *corev1.Pod) {
			first(p).SecurityContext = &corev1.SecurityContext{
				RunAsUser: ptr.To[int64](-1), Privileged: new(true), AllowPrivilegeEscalation: new(false),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost}, ProcMount: new(corev1.UnmaskedProcMount),
			}
		}, []string{
			"spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
			"spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
			"spec.containers[0].securityContext: Invalid value: {\"privileged\":true,\"runAsUser\":-1,\"allowPrivilegeEscalation\":false,\"procMount\":\"Unmasked\"," +
				"\"seccompProfile\":{\"type\":\"Localhost\"}}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
		}},
		"app armor": {func(p *corev1.Pod) {
			security(p).AppArmorProfile = &corev1.AppArmorProfile{Type: "Best", LocalhostProfile: nil}
		}, []string{
			`spec.securityContext.appArmorProfile.type: Unsupported value: "Best": supported values: "Localhost", "RuntimeDefault", "Unconfined"`,
		}},
		"sysctls": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			security(p).Sysctls = []corev1.Sysctl{{Name: "a..b"}, {Name: "net.core.somaxconn"}, {Name: "kernel.sem"}, {Name: "kernel/sem"}}
		}, []string{
			`spec.securityContext.sysctls[0].name: Invalid value: "a..b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.core.somaxconn": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[3].name: Duplicate value: "kernel/sem"`,
		}},
		"host users": {func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostPID = new(false), true }, []string{
			"spec.HostPID: Forbidden: when `hostUsers` is false",
		}},
		"windows on linux": {func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: corev1.Linux}
			security(p).WindowsOptions = &corev1.WindowsSecurityContextOptions{}
		}, []string{"spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"}},
		"linux on windows": {func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
			security(p).FSGroup = ptr.To[int64](1)
			first(p).SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		}, []string{
			"spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
			"spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
		}},
		"gates and node": {func(p *corev1.Pod) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "a"}}
			p.Spec.NodeName = "n"
		}, []string{
			`spec.schedulingGates[1]: Duplicate value: "a"`,
			"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
		}},
		"node affinity": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{},
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 0, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "k", Operator: "in"}}}}},
			}}
		}, []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
			"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator: Invalid value: "in": not a valid selector operator`,
		}},
		"pod affinity": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{MatchLabelKeys: []string{"a"}, TopologyKey: "a b"},
			}}}
		}, []string{
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
		}},
		"spread": {func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
				{MaxSkew: 0, TopologyKey: "zone", WhenUnsatisfiable: corev1.ScheduleAnyway, MinDomains: ptr.To[int32](0)},
				{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.ScheduleAnyway},
			}
		}, []string{
			"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
			`spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, ScheduleAnyway}"`,
			"spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
			"spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
		}},
		"tolerations": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{
				{Operator: corev1.TolerationOpEqual},
				{Key: "k", Operator: "Exists", Value: "v"},
				{Key: "k", Operator: "Lt", Value: "1"},
				{Key: "k", Operator: "Exists", Effect: "NoSchedule", TolerationSeconds: ptr.To[int64](1)},
			}
		}, []string{
			"spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
			"spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
			`spec.tolerations[2].operator: Unsupported value: "Lt": supported values: "Equal", "Exists", "Lt", "Gt"`,
			"spec.tolerations[3].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
		}},
		"ephemeral on create": {func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i:1"}}}
		}, []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
		"restart rules": {func(p *corev1.Pod) {
			first(p).RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart"}}
		}, []string{
			"spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
			"spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
		}},
		"names": {func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.Hostname, p.Spec.HostAliases = "A", "a.b", []corev1.HostAlias{{IP: "300.0.0.1"}}
		}, []string{
			`spec.hostAliases[0].ip: Invalid value: "300.0.0.1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.serviceAccountName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', ` +
				`and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
			`spec.hostname: Invalid value: "a.b": must not contain dots`,
		}},
		"annotations": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.PodDeletionCost: "+1", corev1.MirrorPodAnnotationKey: "x", appArmorAnnotationBase + "zz": "bogus"}
		}, []string{
			`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`,
			`metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer`,
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/zz]: Invalid value: "zz": container not found`,
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/zz]: Invalid value: "bogus": invalid AppArmor profile name: "bogus"`,
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, messages(ValidatePod(validPod(tc.mutate)))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidatePodUpdate(t *testing.T) {
	const fields = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
		"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
		"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
	toleration := corev1.Toleration{Key: "k", Operator: "Exists", Effect: "NoExecute"}
	gated := func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }
	cases := map[string]struct {
		old, mutate func(*corev1.Pod)
		want        []string // prefixes
	}{
		"image":     {nil, func(p *corev1.Pod) { first(p).Image = "nginx:2" }, nil},
		"labels":    {nil, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		"command":   {nil, func(p *corev1.Pod) { first(p).Command = []string{"x"} }, []string{fields}},
		"node":      {nil, func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []string{fields}},
		"resources": {nil, func(p *corev1.Pod) { first(p).Resources.Requests = quantities("cpu", "1") }, []string{fields}},
		"container added": {nil, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x:1"})
			DefaultPod(p)
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		"toleration added": {nil, func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{toleration} }, nil},
		"toleration gone":  {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{toleration} }, func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		"toleration time":  {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{toleration} }, func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = ptr.To[int64](3) }, nil},
		"deadline set":     {nil, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](3) }, nil},
		"deadline later":   {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](3) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](4) }, []string{"spec.activeDeadlineSeconds: Invalid value: 4: must be less than or equal to previous value"}},
		"deadline gone":    {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](3) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		"grace repaired":   {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](-1) }, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) }, nil},
		"grace changed":    {nil, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) }, []string{fields}},
		"gate removed":     {gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		"gate added":       {nil, gated, []string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		"gate added twice": {nil, func(p *corev1.Pod) {
			gated(p)
			p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, p.Spec.SchedulingGates[0])
		}, []string{`spec.schedulingGates[1]: Duplicate value: "g"`, "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		"gated selector":    {gated, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, nil},
		"ungated selector":  {nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, []string{fields}},
		"gated narrower":    {gated, func(p *corev1.Pod) { p.Spec.Affinity = nodeAffinity("a") }, nil},
		"gated wider":       {func(p *corev1.Pod) { gated(p); p.Spec.Affinity = nodeAffinity("a", "b") }, func(p *corev1.Pod) { p.Spec.Affinity = nodeAffinity("a") }, []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value:"}},
		"mirror annotation": {nil, func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""} }, []string{"metadata.annotations[kubernetes.io/config.mirror]: Invalid value", "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := validPod()
			if tc.old != nil {
				old = validPod(tc.old)
			}
			p := old.DeepCopy()
			tc.mutate(p)
			comparePrefixes(t, tc.want, ValidatePodUpdate(p, old))
		})
	}
}

func nodeAffinity(keys ...string) *corev1.Affinity {
	term := corev1.NodeSelectorTerm{}
	for _, key := range keys {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: "Exists"})
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{term},
	}}}
}

func comparePrefixes(t *testing.T, want []string, errs field.ErrorList) {
	t.Helper()
	got := messages(errs)
	if len(got) != len(want) {
		t.Fatalf("got %d errors, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d:\n got %s\nwant %s…", i, got[i], want[i])
		}
	}
}

func TestValidatePodStatusUpdate(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	forbidden := []string{"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}
	cases := map[string]struct {
		policy   corev1.RestartPolicy
		old, now corev1.ContainerState
		want     []string
	}{
		"always restarts":           {corev1.RestartPolicyAlways, ended(0), running, nil},
		"never restarts":            {corev1.RestartPolicyNever, ended(1), running, forbidden},
		"success on failure":        {corev1.RestartPolicyOnFailure, ended(0), running, forbidden},
		"failure on failure":        {corev1.RestartPolicyOnFailure, ended(1), running, nil},
		"never stays as it was":     {corev1.RestartPolicyNever, ended(1), ended(1), nil},
		"never begins by beginning": {corev1.RestartPolicyNever, running, ended(1), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := validPod(func(p *corev1.Pod) { p.Spec.RestartPolicy = tc.policy })
			old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: tc.old}}
			p := old.DeepCopy()
			p.Status.ContainerStatuses[0].State = tc.now
			if diff := cmp.Diff(tc.want, messages(ValidatePodStatusUpdate(p, old))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProfileAgrees(t *testing.T) {
	p := func(s string) *string { return &s }
	cases := map[string]struct {
		what, annotation, kind string
		local                  *string
		want                   string
	}{
		"same":           {"seccomp", "runtime/default", "RuntimeDefault", nil, ""},
		"former name":    {"seccomp", "docker/default", "RuntimeDefault", nil, ""},
		"not AppArmor's": {"apparmor", "docker/default", "RuntimeDefault", nil, "p.type: Forbidden: apparmor type in annotation and field must match"},
		"other type":     {"seccomp", "unconfined", "Localhost", p("x"), "p.type: Forbidden: seccomp type in annotation and field must match"},
		"same file":      {"apparmor", "localhost/x", "Localhost", p("x"), ""},
		"other file":     {"apparmor", "localhost/x", "Localhost", p("y"), "p.localhostProfile: Forbidden: apparmor profile in annotation and field must match"},
		"no file":        {"seccomp", "localhost/x", "Localhost", nil, "p.localhostProfile: Forbidden: seccomp profile in annotation and field must match"},
		"unknown type":   {"seccomp", "unconfined", "Odd", nil, ""}, // told elsewhere
	}
	for name, tc := range cases {
		got := strings.Join(messages(profileAgrees(tc.what, tc.annotation, tc.kind, tc.local, field.NewPath("p"))), "; ")
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestValidatePodReports(t *testing.T) {
	cases := map[string]struct{ spec, old, now, want string }{
		"fine": {
			`{os: {name: linux}, containers: [{name: c, resources: {requests: {a.b/c: 1}, claims: [{name: k, request: r}]}}]}`, `{}`,
			`{phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "::1"}], hostIP: 10.0.0.2, hostIPs: [{ip: 10.0.0.2}], nominatedNodeName: n, conditions: [{type: a.b/c}],
			containerStatuses: [{name: c, user: {linux: {uid: 4294967295, gid: 2147483647}}, allocatedResourcesStatus: [{name: a.b/c, resources: [{resourceID: x, health: Healthy}]}, {name: "claim:k/r"}]}],
			extendedResourceClaimStatus: {resourceClaimName: e, requestMappings: [{containerName: c, resourceName: a.b/c, requestName: r}]}}`, ``,
		},
		"class":             {``, `{qosClass: Burstable}`, `{qosClass: Guaranteed}`, `status.qosClass: Invalid value: "Guaranteed": field is immutable`},
		"bound already":     {`{nodeName: n}`, `{}`, `{nominatedNodeName: m}`, `status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node`},
		"nominated still":   {`{nodeName: n}`, `{nominatedNodeName: m}`, `{nominatedNodeName: m}`, ``},
		"generation":        {``, `{}`, `{conditions: [{type: x, observedGeneration: -1}]}`, `status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer`},
		"condition type":    {``, `{}`, `{conditions: [{type: /abs}]}`, `status.conditions[0].Type: Invalid value: "/abs": prefix part must be non-empty`},
		"address":           {``, `{podIPs: [{ip: old}]}`, `{podIPs: [{ip: new}]}`, `status.podIPs[0]: Invalid value: "new": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		"address as it was": {``, `{podIPs: [{ip: old}]}`, `{podIPs: [{ip: old}]}`, ``},
		"families":          {``, `{}`, `{podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}`, `status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`},
		"ephemeral again":   {``, `{ephemeralContainerStatuses: [{name: e}, {name: f, state: {terminated: {exitCode: 1}}}]}`, `{ephemeralContainerStatuses: [{name: f}]}`, `status.ephemeralContainerStatuses[1].state: Forbidden: may not be transitioned to non-terminated state`},
		"rule":              {`{restartPolicy: Never, containers: [{name: c, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}]}]}`, `{containerStatuses: [{name: c, state: {terminated: {exitCode: 3}}}]}`, `{containerStatuses: [{name: c}]}`, ``},
		"no rule for it":    {`{restartPolicy: Always, containers: [{name: c, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}]}]}`, `{containerStatuses: [{name: c, state: {terminated: {exitCode: 4}}}]}`, `{containerStatuses: [{name: c}]}`, `status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state`},
		"windows user":      {`{os: {name: windows}}`, `{}`, `{containerStatuses: [{name: c, user: {linux: {}}}]}`, `status.containerStatuses[0].user.linux: Forbidden: cannot be set for a windows pod`},
		"group":             {``, `{}`, `{initContainerStatuses: [{name: c, user: {linux: {gid: -1}}}]}`, `status.initContainerStatuses[0].user.linux.gid: Invalid value: -1: must be between 0 and 2147483647, inclusive`},
		"ephemeral":         {``, `{}`, `{ephemeralContainerStatuses: [{name: c, allocatedResourcesStatus: [{name: x}]}]}`, `status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status`},
		"not asked for":     {`{containers: [{name: c}]}`, `{}`, `{containerStatuses: [{name: c, allocatedResourcesStatus: [{name: x}]}]}`, `status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "x": must match one of the container's resource requests`},
		"no container":      {`{containers: [{name: c}]}`, `{}`, `{containerStatuses: [{name: d, allocatedResourcesStatus: [{name: x}]}]}`, ``},
		"extended": {
			`{containers: [{name: c}]}`, `{}`, `{extendedResourceClaimStatus: {resourceClaimName: e, requestMappings: [{containerName: c, resourceName: a.b/c, requestName: r}]}}`,
			`status.extendedResourceClaimStatus.requestMappings[0].resourceName: Invalid value: "a.b/c": must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			spec := *parse[corev1.PodSpec](t, tc.spec)
			p, old := &corev1.Pod{Spec: spec, Status: *parse[corev1.PodStatus](t, tc.now)}, &corev1.Pod{Spec: spec, Status: *parse[corev1.PodStatus](t, tc.old)}
			if got := strings.Join(messages(ValidatePodStatusUpdate(p, old)), "; "); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestSubresources(t *testing.T) {
	debug := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "busybox:1"}, TargetContainerName: "c"}
	t.Run("ephemeral container added", func(t *testing.T) {
		old := validPod()
		p := old.DeepCopy()
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug}
		p.Spec.Containers[0].Image = "ignored:1"
		PreparePodEphemeralContainers(p, old)
		comparePrefixes(t, nil, ValidatePodEphemeralContainersUpdate(p, old))
		if p.Spec.Containers[0].Image != "nginx:1" || p.Generation != old.Generation+1 {
			t.Errorf("image %s, generation %d", p.Spec.Containers[0].Image, p.Generation)
		}
	})
	t.Run("ephemeral container changed, with what it may not have", func(t *testing.T) {
		old := validPod()
		old.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug}
		DefaultPod(old)
		p := old.DeepCopy()
		p.Spec.EphemeralContainers[0].Ports = []corev1.ContainerPort{{ContainerPort: 1}}
		PreparePodEphemeralContainers(p, old)
		comparePrefixes(t, []string{
			"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
			`spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be changed`,
		}, ValidatePodEphemeralContainersUpdate(p, old))
	})
	sized := func(p *corev1.Pod) {
		first(p).Resources.Requests, p.Status.QOSClass = quantities("cpu", "1", "memory", "1Gi"), corev1.PodQOSBurstable
	}
	resizes := map[string]struct {
		mutate func(*corev1.Pod)
		want   []string
	}{
		"cpu":       {func(p *corev1.Pod) { first(p).Resources.Requests = quantities("cpu", "2", "memory", "1Gi") }, nil},
		"class":     {func(p *corev1.Pod) { first(p).Resources.Limits = quantities("cpu", "1", "memory", "1Gi") }, []string{`spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing`}},
		"removed":   {func(p *corev1.Pod) { first(p).Resources.Requests = quantities("cpu", "2") }, []string{"spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"}},
		"storage":   {func(p *corev1.Pod) { first(p).Resources.Requests["ephemeral-storage"] = resource.MustParse("1Gi") }, []string{"spec: Forbidden: only cpu and memory resources are mutable"}},
		"something": {func(p *corev1.Pod) { first(p).Image = "ignored" }, nil},
		"renamed":   {func(p *corev1.Pod) { first(p).Name = "other" }, []string{"spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"}},
		"added": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "i", TerminationMessagePolicy: "File", ImagePullPolicy: "Always"})
		}, []string{"spec.containers: Forbidden: containers may not be added or removed on resize"}},
		"pod-level": {func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "3")} }, nil},
		"pod-level storage": {func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Limits: quantities("hugepages-2Mi", "2Mi")}
		}, []string{
			"spec: Forbidden: only cpu and memory resources are mutable at pod-level",
		}},
	}
	for name, tc := range resizes {
		t.Run("resize "+name, func(t *testing.T) {
			old := validPod(sized)
			p := old.DeepCopy()
			tc.mutate(p)
			PreparePodResize(p, old)
			comparePrefixes(t, tc.want, ValidatePodResize(p, old))
		})
	}
	t.Run("resize of a pod whose node does not report resources", func(t *testing.T) {
		old := validPod(sized)
		old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		p := old.DeepCopy()
		PreparePodResize(p, old)
		comparePrefixes(t, []string{"spec: Forbidden: Pod running on node without support for resize"}, ValidatePodResize(p, old))
	})
	t.Run("binding", func(t *testing.T) {
		comparePrefixes(t, []string{`target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`, "target.name: Required value"},
			ValidatePodBinding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Pod"}}))
	})
}
