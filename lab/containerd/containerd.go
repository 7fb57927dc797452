// Package containerd writes the configuration of a node's container runtime: containerd with the overlayfs snapshotter, runc, our
// registry as the mirror of all others, and pods that may listen on any port.
package containerd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
)

// Config is what differs between nodes.
type Config struct {
	Root          string // images and snapshots, on a real file system
	State         string // sockets and mounts, on a tmpfs
	Socket        string
	ProgramDir    string // shim, runc and cni/
	PauseImage    string
	CNIConfDir    string
	CertsDir      string // hosts.toml per registry
	SystemdCgroup bool   // pods' groups are made by systemd (cgroup v2 machines that run it)
	// RestrictOOMScore keeps scores at what this process may set: without CAP_SYS_RESOURCE a lower one is refused.
	RestrictOOMScore bool
}

// Write puts config.toml at path and the mirror for every registry into the certs folder below root, which is how the node's own
// root is seen from here.
func Write(root, path string, config Config, mirror Mirror) error {
	var text bytes.Buffer
	if err := configTemplate.Execute(&text, config); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	if err := writeFile(filepath.Join(root, path), text.Bytes()); err != nil {
		return err
	}
	hosts := fmt.Sprintf("dial_timeout = \"3s\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", mirror.URL, mirror.CAFile)
	return writeFile(filepath.Join(root, config.CertsDir, "_default", "hosts.toml"), []byte(hosts))
}

// Mirror is the registry that is asked first, whatever registry an image names.
type Mirror struct {
	URL    string
	CAFile string // as the node sees it
}

// MayLowerOOMScore tells whether this machine lets a process lower OOM scores at will.
func MayLowerOOMScore() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	return nil
}

var configTemplate = template.Must(template.New("config.toml").Parse(`version = 3
root = "{{.Root}}"
state = "{{.State}}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.differ.v1.erofs", "io.containerd.mount-handler.v1.erofs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri", "io.containerd.monitor.container.v1.restart"]
[grpc]
  address = "{{.Socket}}"
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = "{{.State}}/s"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  use_local_image_pull = false
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{{.PauseImage}}"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "{{.CertsDir}}"
[plugins.'io.containerd.cri.v1.runtime']
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = {{.RestrictOOMScore}}
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  drain_exec_sync_io_timeout = "2s"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "{{.ProgramDir}}/containerd-shim-runc-v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "{{.ProgramDir}}/runc"
        SystemdCgroup = {{.SystemdCgroup}}
        Root = "{{.State}}/runc"
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{{.ProgramDir}}/cni"]
    conf_dir = "{{.CNIConfDir}}"
    max_conf_num = 1
    use_internal_loopback = true
[plugins.'io.containerd.grpc.v1.cri']
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`))
