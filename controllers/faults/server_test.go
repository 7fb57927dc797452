package faults

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"keelson.dev/apiserver/server"
	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/pki"
)

// shared is the API server that all tests talk to, each in a namespace of its own.
var shared struct {
	loopback *rest.Config
	client   kubernetes.Interface
}

func TestMain(m *testing.M) {
	klog.InitFlags(nil)
	flag.Parse()
	if !testing.Verbose() {
		klog.SetOutput(io.Discard) // faults are what the components would complain of
		klog.LogToStderr(false)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	ended, err := serve(ctx, dir)
	if err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	defer func() { stop(); <-ended }()
	return m.Run()
}

// serve starts an API server with its state in dir and waits until it is ready.
func serve(ctx context.Context, dir string) (<-chan error, error) {
	keys := filepath.Join(dir, "pki")
	if err := pki.EnsureServer(keys, pki.Server{Name: "test", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := server.NewOptions()
	o.Listener = listener
	o.Run.AdvertiseAddress = net.IPv4(192, 0, 2, 1) // documentation address: nothing dials it
	o.Embedded.DataDir = filepath.Join(dir, "etcd")
	o.Embedded.UnsafeNoFsync = true
	o.Authentication.ClientCAFile = filepath.Join(keys, "ca.crt")
	o.ServiceAccount.Issuers = []string{"https://kubernetes.default.svc.cluster.local"}
	o.ServiceAccount.SigningKeyFile = filepath.Join(keys, "sa.key")
	ready, ended := make(chan *rest.Config, 1), make(chan error, 1)
	o.Ready = func(loopback *rest.Config) { ready <- loopback }
	go func() { ended <- server.Run(ctx, o) }()
	select {
	case shared.loopback = <-ready:
	case err := <-ended:
		return nil, err
	case <-time.After(2 * time.Minute):
		return nil, fmt.Errorf("not ready after two minutes")
	}
	shared.client, err = apiclient.Clientset(apiclient.Config(shared.loopback, "test"))
	return ended, err
}

// namespace makes a namespace with the service account that pods need, and the nodes that agents play.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = shared.client.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
	for _, name := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := shared.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		must(t, err)
		noTaints := []byte(`{"spec":{"taints":null}}`) // a new node is not ready, says admission
		_, err = shared.client.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, noTaints, metav1.PatchOptions{})
		must(t, err)
	}
	return ns.Name
}

var nodes = []string{"node-1", "node-2", "node-3", "node-4"}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
