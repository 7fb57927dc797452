package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const token = "sample-plugin"

// startAPI runs our API server, as built by make build, on loopback.
func startAPI(t *testing.T) *rest.Config {
	t.Helper()
	program, err := filepath.Abs("../../bin/apiserver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs make build:", err)
	}
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	tokens := filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(token+",admin,admin,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The test is about the scheduler: no controller makes service accounts or takes the taint of new nodes away.
	server := exec.CommandContext(t.Context(), program, "--data-dir="+dir+"/etcd", "--tls-cert-file="+serving(t, dir), "--tls-private-key-file="+dir+"/serving.key", fmt.Sprintf("--secure-port=%d", port),
		"--bind-address=127.0.0.1", "--token-auth-file="+tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+saKey(t, dir), "--service-account-signing-key-file="+saKey(t, dir),
		"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	server.Stdout, server.Stderr = os.Stderr, os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	return &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", port), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func saKey(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "sa.key")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if output, err := exec.CommandContext(t.Context(), "openssl", "genrsa", "-out", path, "2048").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, output)
	}
	return path
}

// serving makes a certificate; the client does not look at it.
func serving(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "serving.crt")
	output, err := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
		"-keyout", filepath.Join(dir, "serving.key"), "-out", path).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, output)
	}
	return path
}

func eventually(t *testing.T, what string, check func(context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestPluginDecides runs the program as a user would and looks where pods go.
func TestPluginDecides(t *testing.T) {
	config := startAPI(t)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API server is ready", func(ctx context.Context) (bool, error) {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil, nil
	})
	for name, label := range map[string]string{"a": keepOutLabel, "b": "example.com/plain", "c": welcomeLabel} {
		room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: ""}}, Status: corev1.NodeStatus{Capacity: room, Allocatable: room}}
		if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, InsecureSkipTLSVerify: true}}, AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts: map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "x",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, kubeconfig) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	create := func(name string, selector map[string]string) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeSelector: selector, Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("likes", nil)
	create("refused", map[string]string{keepOutLabel: ""})
	eventually(t, "the pod is where the plugin likes it", func(ctx context.Context) (bool, error) {
		pod, err := client.CoreV1().Pods("default").Get(ctx, "likes", metav1.GetOptions{})
		if err == nil && pod.Spec.NodeName != "" && pod.Spec.NodeName != "c" {
			return false, fmt.Errorf("it is on %s", pod.Spec.NodeName)
		}
		return err == nil && pod.Spec.NodeName == "c", err
	})
	eventually(t, "the plugin's refusal is told", func(ctx context.Context) (bool, error) {
		pod, err := client.CoreV1().Pods("default").Get(ctx, "refused", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Message == "0/3 nodes are available: 1 node(s) asked to be kept free, 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling." {
				return true, nil
			}
		}
		return false, nil
	})
}
