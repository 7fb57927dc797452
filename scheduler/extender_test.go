package scheduler

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// helper is an extender that keeps pods away from node a, likes node c, binds, and spares a victim.
type helper struct {
	client interface {
		bind(ctx context.Context, args extenderv1.ExtenderBindingArgs) error
	}

	mu    sync.Mutex
	calls []string
	fail  bool
}

func (h *helper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.calls = append(h.calls, r.URL.Path)
	fail := h.fail
	h.mu.Unlock()
	if fail {
		http.Error(w, "out of order", http.StatusInternalServerError)
		return
	}
	var answer any
	switch r.URL.Path {
	case "/v1/filter":
		var args extenderv1.ExtenderArgs
		decode(r, &args)
		kept := slices.DeleteFunc(slices.Clone(*args.NodeNames), func(n string) bool { return n == "a" })
		answer = extenderv1.ExtenderFilterResult{NodeNames: &kept, FailedNodes: extenderv1.FailedNodesMap{"a": "not on a"}}
	case "/v1/prioritize":
		answer = extenderv1.HostPriorityList{{Host: "b", Score: 0}, {Host: "c", Score: 10}}
	case "/v1/bind":
		var args extenderv1.ExtenderBindingArgs
		decode(r, &args)
		result := extenderv1.ExtenderBindingResult{}
		if err := h.client.bind(r.Context(), args); err != nil {
			result.Error = err.Error()
		}
		answer = result
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

func decode(r *http.Request, into any) {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		panic(err)
	}
}

func (h *helper) called(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(h.calls), func(c string) bool { return c != path }))
}

// startExtender serves the helper over TLS and returns its configuration.
func startExtender(t *testing.T, h *helper) configv1.Extender {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return configv1.Extender{
		URLPrefix: server.URL + "/v1/", EnableHTTPS: true, TLSConfig: &configv1.ExtenderTLSConfig{CAData: ca}, NodeCacheCapable: true,
		FilterVerb: "filter", PrioritizeVerb: "prioritize", Weight: 1000,
	}
}

func extended(conf ...configv1.Extender) *configv1.KubeSchedulerConfiguration {
	return &configv1.KubeSchedulerConfiguration{Extenders: conf}
}

func (c *cluster) bind(ctx context.Context, args extenderv1.ExtenderBindingArgs) error {
	return c.client.CoreV1().Pods(args.PodNamespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: args.PodNamespace, Name: args.PodName, UID: args.PodUID}, Target: corev1.ObjectReference{Kind: "Node", Name: args.Node},
	}, metav1.CreateOptions{})
}

func TestExtenderFiltersAndScores(t *testing.T) {
	h := &helper{}
	c := startConfigured(t, extended(startExtender(t, h)), testNode("a"), testNode("b"), testNode("c"))
	c.create(testPod("p"))
	if node := c.nodeOf("p"); node != "c" {
		t.Errorf("the pod is on %s, the extender likes c best", node)
	}
	if h.called("/v1/filter") == 0 || h.called("/v1/prioritize") == 0 {
		t.Errorf("calls: %v", h.calls)
	}
}

func TestExtenderRefuses(t *testing.T) {
	c := startConfigured(t, extended(startExtender(t, &helper{})), testNode("a"))
	c.create(testPod("p"))
	c.refused("p", "0/1 nodes are available: 1 not on a. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
}

func TestExtenderBinds(t *testing.T) {
	h := &helper{}
	conf := startExtender(t, h)
	conf.BindVerb = "bind"
	c := startConfigured(t, extended(conf), testNode("b"))
	h.client = c
	c.create(testPod("p"))
	if node := c.nodeOf("p"); node != "b" || h.called("/v1/bind") != 1 {
		t.Errorf("the pod is on %s after %v", node, h.calls)
	}
}

func TestExtenderThatFails(t *testing.T) {
	for name, ignorable := range map[string]bool{"Ignorable": true, "Needed": false} {
		t.Run(name, func(t *testing.T) {
			h := &helper{fail: true}
			conf := startExtender(t, h)
			conf.Ignorable = ignorable
			c := startConfigured(t, extended(conf), testNode("a"))
			c.create(testPod("p"))
			if ignorable {
				c.nodeOf("p")
				return
			}
			c.eventually("pod has an error", func(ctx context.Context) (bool, error) {
				pod, err := c.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
				if err != nil {
					return false, err
				}
				return slices.ContainsFunc(pod.Status.Conditions, func(cond corev1.PodCondition) bool {
					return cond.Reason == corev1.PodReasonSchedulerError && strings.Contains(cond.Message, "failed filter with extender at URL")
				}), nil
			})
		})
	}
}

func TestExtenderManagesResource(t *testing.T) {
	h := &helper{}
	conf := startExtender(t, h)
	conf.ManagedResources = []configv1.ExtenderManagedResource{{Name: "example.com/thing", IgnoredByScheduler: true}}
	c := startConfigured(t, extended(conf), testNode("a"), testNode("b"))
	plain := testPod("plain")
	c.create(plain)
	c.nodeOf("plain")
	if n := h.called("/v1/filter"); n != 0 {
		t.Errorf("asked %d times about a pod without the resource", n)
	}
	special := testPod("special")
	special.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/thing": resource.MustParse("1")}
	special.Spec.Containers[0].Resources.Requests = special.Spec.Containers[0].Resources.Limits
	c.create(special)
	if node := c.nodeOf("special"); node != "b" {
		t.Errorf("the pod is on %s; no node has the resource, and the extender wants it on b", node)
	}
}

func TestExtenderConfigurationIsChecked(t *testing.T) {
	for name, confs := range map[string][]configv1.Extender{
		"NoAddress":  {{FilterVerb: "filter"}},
		"NoWeight":   {{URLPrefix: "http://x", PrioritizeVerb: "p"}},
		"TwoBinders": {{URLPrefix: "http://x", BindVerb: "b"}, {URLPrefix: "http://y", BindVerb: "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := (&Scheduler{}).addExtenders(confs); err == nil {
				t.Errorf("%v was accepted", confs)
			}
		})
	}
}
