package podenv

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type objects struct{}

func (objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if name != "cm" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &corev1.ConfigMap{Data: map[string]string{"k": "v", "A": "from-cm"}}, nil
}

func (objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if name != "s" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return &corev1.Secret{Data: map[string][]byte{"pw": []byte("x")}}, nil
}

func ref(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func quantity(name, divisor string) *corev1.EnvVarSource {
	s := &corev1.ResourceFieldSelector{Resource: name}
	if divisor != "" {
		s.Divisor = resource.MustParse(divisor)
	}
	return &corev1.EnvVarSource{ResourceFieldRef: s}
}

func TestFor(t *testing.T) {
	yes, no := true, false
	service := func(namespace, name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	}
	for name, tc := range map[string]struct {
		env      []corev1.EnvVar
		from     []corev1.EnvFromSource
		links    *bool
		services []*corev1.Service
		want     map[string]string
		err      string
	}{
		"expansion sees only what comes before": {
			env:  []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(C)-$$(A)-$(k)"}, {Name: "C", Value: "3"}},
			from: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}},
			want: map[string]string{"A": "1", "B": "1-$(C)-$(A)-v", "C": "3", "k": "v"},
		},
		"prefix and secret": {
			from: []corev1.EnvFromSource{{Prefix: "P_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("s")}}},
			want: map[string]string{"P_pw": "x"},
		},
		"fields": {
			env:  []corev1.EnvVar{{Name: "L", ValueFrom: field("metadata.labels['a']")}, {Name: "IPS", ValueFrom: field("status.podIPs")}, {Name: "HOST", ValueFrom: field("status.hostIP")}},
			want: map[string]string{"L": "1", "IPS": "10.0.0.1,fd00::1", "HOST": "192.0.2.1"},
		},
		"resources": {
			env: []corev1.EnvVar{
				{Name: "CPU", ValueFrom: quantity("requests.cpu", "")},
				{Name: "MILLI", ValueFrom: quantity("requests.cpu", "1m")},
				{Name: "MIB", ValueFrom: quantity("limits.memory", "1Mi")},
				{Name: "NODE", ValueFrom: quantity("limits.cpu", "")},
			},
			want: map[string]string{"CPU": "1", "MILLI": "250", "MIB": "64", "NODE": "4"},
		},
		"missing ConfigMap": {
			env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("y"), Key: "k"}}}},
			err: `configmap "y" not found`,
		},
		"missing key": {
			env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "k"}}}},
			err: "couldn't find key k in Secret ns/s",
		},
		"optional": {
			env:  []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("y"), Key: "k", Optional: &yes}}}},
			want: map[string]string{},
		},
		"file": {
			env:  []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "v", Path: "env", Key: "K"}}}},
			want: map[string]string{"A": "from file"},
		},
		"services": {
			links:    &yes,
			services: []*corev1.Service{service("ns", "my-db", "10.96.0.5"), service("ns", "headless", "None"), service("default", "kubernetes", "10.96.0.1")},
			env:      []corev1.EnvVar{{Name: "URL", Value: "$(MY_DB_SERVICE_HOST)"}},
			want: map[string]string{
				"URL": "10.96.0.5", "MY_DB_SERVICE_HOST": "10.96.0.5", "MY_DB_SERVICE_PORT": "80", "MY_DB_SERVICE_PORT_HTTP": "80", "MY_DB_PORT": "tcp://10.96.0.5:80",
				"MY_DB_PORT_80_TCP": "tcp://10.96.0.5:80", "MY_DB_PORT_80_TCP_PROTO": "tcp", "MY_DB_PORT_80_TCP_PORT": "80", "MY_DB_PORT_80_TCP_ADDR": "10.96.0.5",
				"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "80", "KUBERNETES_SERVICE_PORT_HTTP": "80", "KUBERNETES_PORT": "tcp://10.96.0.1:80",
				"KUBERNETES_PORT_80_TCP": "tcp://10.96.0.1:80", "KUBERNETES_PORT_80_TCP_PROTO": "tcp", "KUBERNETES_PORT_80_TCP_PORT": "80", "KUBERNETES_PORT_80_TCP_ADDR": "10.96.0.1",
			},
		},
		"no links": {links: &no, services: []*corev1.Service{service("ns", "db", "10.96.0.5")}, want: map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"a": "1"}}, Spec: corev1.PodSpec{
				EnableServiceLinks: tc.links,
				Containers: []corev1.Container{{Name: "c", Env: tc.env, EnvFrom: tc.from, Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}, Limits: corev1.ResourceList{"memory": resource.MustParse("64Mi")},
				}}},
			}}
			env, err := For(t.Context(), Input{
				Pod: pod, Container: &pod.Spec.Containers[0], PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.0.2.1"}, Objects: objects{},
				Services: tc.services, NodeAllocatable: corev1.ResourceList{"cpu": resource.MustParse("4")},
				ReadFile: func(_, path string) ([]byte, error) {
					if path != "env" {
						return nil, fs.ErrNotExist
					}
					return []byte("# comment\nK='from file'\n"), nil
				},
			})
			if tc.err != "" {
				if err == nil || err.Error() != tc.err || !errors.Is(err, ErrConfig) {
					t.Errorf("got %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, kv := range env {
				got[kv.Key] = string(kv.Value)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	get := lookup(map[string]string{"A": "x", "B": ""})
	for in, want := range map[string]string{
		"": "", "$": "$", "a$": "a$", "$(A)": "x", "$$(A)": "$(A)", "$$$(A)": "$x", "$(B)y": "y", "$(NO)": "$(NO)", "$(A": "$(A", "$A": "$A", "$(A)$(A)": "xx", "$$": "$", "$()": "$()",
	} {
		if got := Expand(in, get); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestEnvFile(t *testing.T) {
	type result struct {
		Value string
		Found bool
		Bad   bool
	}
	for in, want := range map[string]result{
		"K='a b' # c\n":    {"a b", true, false},
		"X='1'\n":          {"", false, false},
		"K='a\nb'\n":       {"a\nb", true, false},
		"K=a\n":            {"", false, true},
		"K='a":             {"", false, true},
		"K='1'\nK='2'\n":   {"2", true, false},
		"  K='1'\n\n# K\n": {"1", true, false},
	} {
		value, found, err := EnvFileValue([]byte(in), "K")
		if diff := cmp.Diff(want, result{value, found, err != nil}); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}
