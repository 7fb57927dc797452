// Package node runs one lab node: a container of the bundled runc with namespaces of its own, whose root is a copy-on-write
// overlay of the machine's root and whose state lies on a real directory. Kill is a power cut, freeze is a pause.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"keelson.dev/lab/network"
	"keelson.dev/lab/supervisor"
)

// Node is one node of a lab cluster. All fields are set by the cluster that owns it.
type Node struct {
	Name    string
	Cluster string
	Address netip.Addr
	Network network.Network
	Dir     string // of this node: overlay, state, OCI bundle
	Bundle  string // folder with runc and the programs that run inside
}

// Status is what runc knows of a node.
type Status string

// The states of a node. Off is a node that exists on disk only.
const (
	Running Status = "running"
	Frozen  Status = "paused"
	Off     Status = "off"
)

// stateDirs are the folders of a node that lie on the machine's own file system, by their path inside the node: databases, images
// and volumes must not lie on an overlay, and what a user may want to look at should be easy to find.
var stateDirs = []string{
	"/var/lib/keelson", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log", "/etc/kubernetes", "/etc/cni",
	"/etc/containerd", "/etc/keelson", "/tmp",
}

// ProgramDir is where a node finds the bundle.
const ProgramDir = "/opt/keelson"

// servicesFile tells the node's first process what to run.
const servicesFile = "/etc/keelson/services.json"

// StatePath is where a path below one of the state folders lies on the machine.
func (n *Node) StatePath(inside string) string {
	return filepath.Join(n.Dir, "state", inside)
}

// Start makes what is missing on disk and starts the node with its services. A node that is running is left alone.
func (n *Node) Start(ctx context.Context, services []supervisor.Service) error {
	status, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if status != Off {
		return nil
	}
	if err := n.prepare(services); err != nil {
		return fmt.Errorf("prepare node %s: %w", n.Name, err)
	}
	if err := n.erase(ctx); err != nil {
		return fmt.Errorf("clear node %s: %w", n.Name, err)
	}
	if err := n.create(ctx); err != nil {
		return fmt.Errorf("create node %s: %w", n.Name, err)
	}
	state, err := n.state(ctx)
	if err != nil {
		return err
	}
	if err := n.Network.Plug(state.PID, n.Address); err != nil {
		return fmt.Errorf("connect node %s: %w", n.Name, err)
	}
	if err := n.runc(ctx, "start", n.id()); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	return nil
}

// Kill ends the node and everything in it at once, as a power cut does.
func (n *Node) Kill(ctx context.Context) error {
	if err := n.erase(ctx); err != nil {
		return fmt.Errorf("kill node %s: %w", n.Name, err)
	}
	return n.unmountRoot()
}

// deathPatience is how long killed processes may take to leave their control groups: runc waits for less than a busy machine needs.
const deathPatience = 30 * time.Second

// erase ends the container and makes runc forget it.
func (n *Node) erase(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, deathPatience, true, func(ctx context.Context) (bool, error) {
		last = n.runc(ctx, "delete", "--force", n.id())
		return last == nil || strings.Contains(last.Error(), "does not exist"), nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// Signal sends a signal to the node's first process; SIGTERM stops its services in order.
func (n *Node) Signal(ctx context.Context, signal string) error {
	return n.runc(ctx, "kill", n.id(), signal)
}

// Remove kills the node and deletes all that it had.
func (n *Node) Remove(ctx context.Context) error {
	if err := n.Kill(ctx); err != nil {
		return err
	}
	if err := unmountBelow(n.Dir); err != nil {
		return fmt.Errorf("remove node %s: %w", n.Name, err)
	}
	if err := removeCgroups(n.cgroup()); err != nil {
		return fmt.Errorf("remove node %s: %w", n.Name, err)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		return fmt.Errorf("remove node %s: %w", n.Name, err)
	}
	return nil
}

// Status reads the state of the node.
func (n *Node) Status(ctx context.Context) (Status, error) {
	state, err := n.state(ctx)
	if err != nil {
		return "", err
	}
	switch state.Status {
	case Running, Frozen:
		return state.Status, nil
	default:
		return Off, nil
	}
}

// PID is the node's first process on the machine; 0 if it is off.
func (n *Node) PID(ctx context.Context) (int, error) {
	state, err := n.state(ctx)
	return state.PID, err
}

type runcState struct {
	PID    int    `json:"pid"`
	Status Status `json:"status"`
}

func (n *Node) state(ctx context.Context) (runcState, error) {
	if _, err := os.Stat(filepath.Join(n.runcRoot(), n.id())); errors.Is(err, os.ErrNotExist) {
		return runcState{}, nil
	}
	output, err := exec.CommandContext(ctx, n.runcPath(), "--root", n.runcRoot(), "state", n.id()).Output()
	if err != nil {
		return runcState{}, nil //nolint:nilerr // runc does not know it (any more): it is off
	}
	var state runcState
	if err := json.Unmarshal(output, &state); err != nil {
		return runcState{}, fmt.Errorf("read state of node %s: %w", n.Name, err)
	}
	return state, nil
}

// create makes the container, stopped before its first process. The process keeps the console file as its output.
func (n *Node) create(ctx context.Context) error {
	console, err := os.OpenFile(filepath.Join(n.Dir, "console.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	create := exec.CommandContext(ctx, n.runcPath(), "--root", n.runcRoot(), "--log", filepath.Join(n.Dir, "runc.log"),
		"create", "--bundle", n.Dir, n.id())
	create.Stdout, create.Stderr = console, console
	if err := create.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(filepath.Join(n.Dir, "runc.log")))
	}
	return nil
}

func (n *Node) runc(ctx context.Context, args ...string) error {
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, n.runcPath(), append([]string{"--root", n.runcRoot()}, args...)...)
	command.Stderr = &stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("runc %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func (n *Node) id() string       { return n.Cluster + "-" + n.Name }
func (n *Node) cgroup() string   { return "/keelson/" + n.Cluster + "/" + n.Name }
func (n *Node) runcPath() string { return filepath.Join(n.Bundle, "runc") }
func (n *Node) runcRoot() string { return filepath.Join(filepath.Dir(filepath.Dir(n.Dir)), "runc") }

// Exec runs a program inside the node with this process's standard streams, and a terminal if there is one.
func (n *Node) Exec(ctx context.Context, args []string) error {
	arguments := []string{"--root", n.runcRoot(), "exec"}
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil {
		arguments = append(arguments, "--tty")
	}
	command := exec.CommandContext(ctx, n.runcPath(), append(append(arguments, n.id()), args...)...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	return command.Run()
}

func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}
