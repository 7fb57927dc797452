package hollow

import (
	"net/http"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPart(t *testing.T) {
	cases := map[string]struct {
		whole string
		bits  int
		index int
		want  string // empty: none left
	}{
		"FirstNode":   {"198.18.0.0/19", 32, 1, "198.18.0.1/32"},
		"OverAByte":   {"198.18.32.0/19", 32, 300, "198.18.33.44/32"},
		"Pods24":      {"100.64.0.0/12", 24, 257, "100.65.1.0/24"},
		"Pods25":      {"100.64.0.0/12", 25, 3, "100.64.1.128/25"},
		"LastPods25":  {"100.64.0.0/12", 25, 8191, "100.79.255.128/25"},
		"BeyondPods":  {"100.64.0.0/12", 25, 8192, ""},
		"BeyondNodes": {"198.18.0.0/19", 32, 8192, ""},
		"BeyondAll":   {"255.255.255.0/24", 32, 1 << 10, ""},
		"IPv6":        {"fd00::/64", 121, 2, "fd00::100/121"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := part(netip.MustParsePrefix(tc.whole), tc.bits, tc.index)
			if tc.want == "" {
				if err == nil {
					t.Fatalf("got %s, want none", got)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("got %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

type recorded struct{ headers []http.Header }

func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	r.headers = append(r.headers, req.Header)
	return &http.Response{StatusCode: http.StatusOK}, nil
}

func TestRequestsAreTheNodes(t *testing.T) {
	for name, tc := range map[string]struct {
		impersonate bool
		node        string
		user        string
		groups      []string
	}{
		"AsNode":    {true, "hollow-0001", "system:node:hollow-0001", []string{"system:nodes"}},
		"AsProcess": {true, "", "", nil},
		"Never":     {false, "hollow-0001", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if tc.node != "" {
				ctx = as(ctx, tc.node)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.invalid/", nil)
			if err != nil {
				t.Fatal(err)
			}
			next := &recorded{}
			response, err := identities(tc.impersonate)(next).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if response.Body != nil {
				defer response.Body.Close()
			}
			h := next.headers[0]
			if h.Get("Impersonate-User") != tc.user || !slices.Equal(h.Values("Impersonate-Group"), tc.groups) {
				t.Errorf("headers: %v", h)
			}
			if len(req.Header) != 0 {
				t.Error("the caller's request was changed")
			}
		})
	}
}

func TestBareLeavesThePodAlone(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		NodeName: "n", Volumes: []corev1.Volume{{Name: "v"}},
		Containers: []corev1.Container{{Name: "c", Image: "i", ReadinessProbe: &corev1.Probe{}, Env: []corev1.EnvVar{{Name: "E"}}}},
	}}
	before := pod.DeepCopy()
	got := bare(pod)
	if c := got.Spec.Containers[0]; c.ReadinessProbe != nil || c.Env != nil || c.Name != "c" || c.Image != "i" || got.Spec.NodeName != "n" || got.Spec.Volumes != nil {
		t.Errorf("bare pod: %+v", got.Spec)
	}
	if !slices.EqualFunc(before.Spec.Containers, pod.Spec.Containers, func(a, b corev1.Container) bool { return (a.ReadinessProbe == nil) == (b.ReadinessProbe == nil) }) || len(pod.Spec.Volumes) != 1 {
		t.Error("the pod itself was changed")
	}
}
