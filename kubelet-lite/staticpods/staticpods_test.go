package staticpods

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

const manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: i}]\n"

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("broken.yaml", "kind: Pod\n")
	write(".hidden", manifest)
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan []*corev1.Pod, 10), make(chan error, 1)
	source := &Source{Dir: dir, NodeName: "Node-1", Default: func(s *corev1.PodSpec) { s.RestartPolicy = corev1.RestartPolicyAlways }, Clock: clock.RealClock{}}
	go func() { done <- source.Run(ctx, func(pods []*corev1.Pod) { changes <- pods }) }()
	next := func(want int) []*corev1.Pod {
		t.Helper()
		for {
			select {
			case pods := <-changes:
				if len(pods) == want {
					return pods
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no change to %d pods", want)
			}
		}
	}
	next(0)
	write("web.yaml", manifest)
	pod := next(1)[0]
	if pod.Name != "web-node-1" || pod.Namespace != "default" || pod.Spec.NodeName != "Node-1" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("pod %s/%s on %s, policy %q", pod.Namespace, pod.Name, pod.Spec.NodeName, pod.Spec.RestartPolicy)
	}
	if !IsStatic(pod) || IsMirror(pod) {
		t.Error("a static pod is not seen as one")
	}
	mirror := Mirror(pod, &corev1.Node{})
	if IsStatic(mirror) || !IsMirror(mirror) || mirror.UID != "" || mirror.Annotations[MirrorAnnotation] != string(pod.UID) {
		t.Errorf("mirror %+v", mirror.ObjectMeta)
	}
	write("web.yaml", manifest+"  hostNetwork: true\n")
	if again := next(1)[0]; again.UID == pod.UID {
		t.Error("a changed manifest is the same pod")
	}
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	next(0)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
