package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"keelson.dev/lab/supervisor"
)

const (
	// endGrace is how long a service that was asked to end may take.
	endGrace = 8 * time.Second
	// restartPatience is how long the node's first process may take to start its services again.
	restartPatience = 2 * time.Minute
)

// Upgrade lets a node that runs go on with the programs of the bundle, and returns once all its services have been started again. Pods do
// not notice. Services with other arguments than before get these when the node is started the next time.
func (n *Node) Upgrade(ctx context.Context, services []supervisor.Service) error {
	first, err := n.PID(ctx)
	if err != nil {
		return err
	}
	if err := writeJSON(n.StatePath(servicesFile), services); err != nil {
		return err
	}
	if err := mountInside(first, n.Bundle, ProgramDir); err != nil {
		return fmt.Errorf("upgrade node %s: %w", n.Name, err)
	}
	before, err := serviceProcesses(first, services)
	if err != nil {
		return err
	}
	for name, pid := range before {
		signal := unix.SIGKILL // which an agent does not take for the end of its machine
		if name == "server" {
			signal = unix.SIGTERM // so that others need not wait for the end of its leases
		}
		if err := unix.Kill(pid, signal); err != nil && err != unix.ESRCH {
			return fmt.Errorf("stop %s of node %s: %w", name, n.Name, err)
		}
	}
	asked := time.Now()
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, restartPatience, true, func(context.Context) (bool, error) {
		now, err := serviceProcesses(first, services)
		for name, pid := range now {
			if before[name] == pid {
				if time.Since(asked) > endGrace {
					_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
				}
				return false, err
			}
		}
		return len(now) >= len(before), err
	})
	if err != nil {
		return fmt.Errorf("services of node %s have not started again: %w", n.Name, err)
	}
	return nil
}

// serviceProcesses finds the processes of services, by their names, among the children of a node's first process.
func serviceProcesses(first int, services []supervisor.Service) (map[string]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for _, s := range services {
			if !bytes.HasPrefix(line, []byte(s.Args[0]+"\x00"+s.Args[1]+"\x00")) {
				continue
			}
			status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
			if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", first)) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return nil, err
			}
			found[s.Name] = pid
		}
	}
	return found, nil
}

// mountInside mounts a folder of the machine, read-only, over one of the node whose first process that is.
func mountInside(first int, folder, target string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open %s: %w", folder, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", folder, err)
	}
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", first))
	if err != nil {
		return fmt.Errorf("open the node's mounts: %w", err)
	}
	defer namespace.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS)
		}
		if err == nil {
			err = unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("mount %s in the node: %w", folder, err)
	}
	return nil
}
