//go:build e2e

package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/internal/bench"
	"keelson.dev/internal/podstate"
	"keelson.dev/lab/images"
)

var fullFor = flag.Duration("full.for", 0, "how long TestFullNode watches a node with as many pods as it takes; 0: it does not run")

// TestFullNode fills a node with pods that are probed by exec, HTTP and TCP, and demands that for a while none restarts and none is not
// Ready. It logs what that costs.
func TestFullNode(t *testing.T) {
	if *fullFor == 0 {
		t.Skip("-full.for is not set: make full-node")
	}
	s := newStage(t, "worker-1")
	node, err := s.client.CoreV1().Nodes().Get(t.Context(), s.node, metav1.GetOptions{})
	must(t, err)
	others, err := s.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + s.node})
	must(t, err)
	count := int(node.Status.Allocatable.Pods().Value()) - len(others.Items)
	began := time.Now()
	for i := range count {
		s.create(probed(i))
	}
	waitFor(t, 15*time.Minute, func() error {
		list, err := s.client.CoreV1().Pods(s.namespace).List(t.Context(), metav1.ListOptions{})
		for i := range list.Items {
			if err == nil && !podstate.Ready(&list.Items[i]) {
				err = fmt.Errorf("%s is not ready: %+v", list.Items[i].Name, list.Items[i].Status)
			}
		}
		return err
	})
	t.Logf("figures: %d pods, with %d others, all Ready after %.0f s", count, len(others.Items), time.Since(began).Seconds())

	agent := s.agentPID()
	_, restarted := s.restarts() // while the machine was busy with the start of all
	failed, before, start := s.failedProbes(), usage(t, agent), time.Now()
	time.Sleep(*fullFor) // that nothing happens meanwhile is what is tested
	after, seconds := usage(t, agent), time.Since(start).Seconds()
	pods, restarts := s.restarts()
	restarts -= restarted
	wavered := 0
	for i := range pods {
		for _, c := range pods[i].Status.Conditions {
			if c.Type == corev1.PodReady && (c.Status != corev1.ConditionTrue || c.LastTransitionTime.After(start)) {
				wavered++
			}
		}
	}
	t.Logf("figures: over %.0f s: the agent used %.1f s of CPU (%.0f ms/s) and has %d MB of memory (%d MB of it anonymous, %d MB at most); %d restarts, %d pods were not Ready at some time, %d probes failed",
		seconds, (after.CPU - before.CPU).Seconds(), 1000*(after.CPU-before.CPU).Seconds()/seconds, after.RSS>>20, after.Anonymous>>20, after.Peak>>20,
		restarts, wavered, s.failedProbes()-failed)
	if len(pods) != count || restarts > 0 || wavered > 0 {
		t.Errorf("of %d pods %d are left; %d restarts, %d were not Ready at some time", count, len(pods), restarts, wavered)
	}
	must(t, kubectl("delete", "pods", "-n", s.namespace, "--all", "--wait=false"))
	s.mustBeEmpty()
}

// restarts are those of all pods so far.
func (s *stage) restarts() (pods []corev1.Pod, sum int) {
	s.Helper()
	list, err := s.client.CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{})
	must(s.T, err)
	for i := range list.Items {
		sum += int(list.Items[i].Status.ContainerStatuses[0].RestartCount)
	}
	return list.Items, sum
}

// probed is a web server whose probes are of one of three kinds, each as often as is the default.
func probed(i int) *corev1.Pod {
	probe := corev1.Probe{ProbeHandler: []corev1.ProbeHandler{
		{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
		{Exec: &corev1.ExecAction{Command: []string{"true"}}},
	}[i%3], TimeoutSeconds: 5}
	p := shell(fmt.Sprintf("pod-%d", i), "exec demo")
	p.Spec.Containers[0].Image = images.Toolbox
	p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = &probe, &probe
	return p
}

// agentPID finds the process of the node's agent on this machine.
func (s *stage) agentPID() int {
	s.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.T, err)
	for _, path := range paths {
		line, _ := os.ReadFile(path) // processes end
		groups, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		if bytes.Contains(line, []byte("\x00agent\x00--node-name\x00"+s.node+"\x00")) && strings.Contains(string(groups), "/keelson/"+*clusterName+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(s.T, err)
			return pid
		}
	}
	s.Fatalf("no agent of %s", s.node)
	return 0
}

func usage(t *testing.T, pid int) bench.Usage {
	t.Helper()
	u, err := bench.UsageOf([]int{pid})
	must(t, err)
	return u
}

// failedProbes is how many probes of the node's pods have failed so far.
func (s *stage) failedProbes() (sum int) {
	s.Helper()
	for line := range strings.Lines(output(s.T, "get", "--raw", "/api/v1/nodes/"+s.node+"/proxy/metrics/probes")) {
		if value, ok := strings.CutPrefix(line, "prober_probe_total{"); ok && strings.Contains(value, `result="failed"`) && strings.Contains(value, s.namespace) {
			n, err := strconv.ParseFloat(strings.TrimSpace(value[strings.LastIndex(value, "}")+1:]), 64)
			must(s.T, err)
			sum += int(n)
		}
	}
	return sum
}
