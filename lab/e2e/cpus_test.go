//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestExclusiveCPUs has a node give CPUs away: a guaranteed container gets one for itself, which running ones must leave, and nothing of that
// changes when the agent dies.
func TestExclusiveCPUs(t *testing.T) {
	const config = "/etc/keelson/kubelet.yaml"
	s := newStage(t, "worker-2")
	inNode := func(text string) {
		t.Helper()
		if out, err := command("node", "exec", s.node, "--", "/bin/sh", "-c", text).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", text, err, out)
		}
	}
	restart := func(policy string) {
		t.Helper()
		must(t, killInNode(s.node, "keelson agent"))
		waitFor(t, time.Minute, func() error {
			out, err := kubectlCommand("get", "--raw", "/api/v1/nodes/"+s.node+"/proxy/configz").Output()
			if err == nil && strings.Contains(string(out), `"cpuManagerPolicy":"static"`) != (policy == "static") {
				err = fmt.Errorf("the agent runs with %s", out)
			}
			return err
		})
	}
	running := func(name string, cpu, limit string) *corev1.Pod {
		p := shell(name, asLongAs)
		c := &p.Spec.Containers[0]
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("32Mi")}
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limit), corev1.ResourceMemory: resource.MustParse("32Mi")}
		s.create(p)
		s.soon(p, s.isReady)
		return p
	}
	allowed := func(pod *corev1.Pod) (string, error) {
		out, err := kubectlCommand("exec", "-n", s.namespace, pod.Name, "--", "cat", "/proc/self/status").Output()
		for line := range strings.Lines(string(out)) {
			if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
				return strings.TrimSpace(list), nil
			}
		}
		return "", fmt.Errorf("status %q: %w", out, err)
	}
	runsOn := func(pod *corev1.Pod, want string) {
		t.Helper()
		waitFor(t, time.Minute, func() error {
			if got, err := allowed(pod); err != nil || got != want {
				return fmt.Errorf("%s runs on CPUs %s, not on %s (%w)", pod.Name, got, want, err)
			}
			return nil
		})
	}
	shared := running("shared", "100m", "200m")
	before, err := allowed(shared)
	must(t, err)
	if !strings.HasPrefix(before, "0-") {
		t.Skipf("the machine has only CPUs %s", before)
	}
	t.Cleanup(func() {
		inNode("cp /tmp/kubelet.yaml " + config + " && rm -f /var/lib/kubelet/cpu_manager_state")
		restart("none")
	})
	inNode("cp " + config + " /tmp/kubelet.yaml && printf 'cpuManagerPolicy: static\\nsystemReserved: {cpu: 100m}\\n' >>" + config)
	restart("static")
	runsOn(shared, before)
	own := running("own", "1", "1")
	runsOn(own, "1")
	others := map[string]string{"0-1": "0", "0-2": "0,2"}[before] // of more than three, all but CPU 1
	if others == "" {
		others = "0,2" + before[1:]
	}
	runsOn(shared, others)
	restart("static")
	runsOn(own, "1")
	runsOn(shared, others)
	must(t, kubectl("delete", "pod", "-n", s.namespace, own.Name))
	runsOn(shared, before)
	must(t, kubectl("delete", "pod", "-n", s.namespace, shared.Name))
	s.mustBeEmpty()
}
