//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/cri"
	"keelson.dev/kubelet-lite/cri/contract"
	"keelson.dev/lab/cluster"
	"keelson.dev/lab/images"
)

// TestContainerdKeepsTheContract runs, in a node's containerd, the test that the pretended runtime of hollow nodes passes too.
func TestContainerdKeepsTheContract(t *testing.T) {
	c, err := cluster.View(*clusterName, filepath.Dir(keelson))
	must(t, err)
	member, err := c.Member("worker-1")
	must(t, err)
	pid, err := c.Node(*member).PID(t.Context())
	must(t, err)
	klog.SetLogger(logr.Discard()) // the CRI client tells each error that the contract asks for
	t.Cleanup(klog.ClearLogger)
	client, err := cri.Dial(t.Context(), fmt.Sprintf("unix:///proc/%d/root/run/containerd/containerd.sock", pid), "")
	must(t, err)
	contract.Test(t, contract.Subject{Client: client, Image: images.Demo, Command: []string{"/demo"}, LogDir: "/tmp"})
}
