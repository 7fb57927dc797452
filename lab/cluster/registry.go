package cluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/lab/registry"
)

// imageStore is the folder of all images of this machine: clusters share it.
func (c *Cluster) imageStore() string { return filepath.Join(c.home, "registry") }

// ImageHandler gives access to the machine's images without a socket.
func (c *Cluster) ImageHandler(ctx context.Context) http.Handler {
	return registry.Handler(ctx, c.imageStore(), c.registryAddress())
}

// ServeRegistry serves the machine's images on the cluster's network until ctx ends, and says so on ready.
func (c *Cluster) ServeRegistry(ctx context.Context, ready *os.File) error {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(c.pkiDir(), "registry.crt"), filepath.Join(c.pkiDir(), "registry.key"))
	if err != nil {
		return fmt.Errorf("read certificate of registry: %w", err)
	}
	listening := make(chan struct{})
	go func() {
		select {
		case <-listening:
			fmt.Fprintln(ready, "ready")
		case <-ctx.Done():
		}
		ready.Close()
	}()
	handler := c.ImageHandler(ctx)
	if err := registry.Import(ctx, handler, filepath.Join(c.bundle, "images")); err != nil {
		return err
	}
	return registry.Serve(ctx, c.registryAddress(), certificate, handler, listening)
}

// startRegistry runs the registry as a process of its own that outlives this one. One that runs already is left alone.
func (c *Cluster) startRegistry() error {
	if pid, err := c.registryPID(); err != nil || pid != 0 {
		return err
	}
	if err := c.registryPair(); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.dir(), "registry.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	defer log.Close()
	answer, ready, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	defer answer.Close()
	command := exec.Command(filepath.Join(c.bundle, "keelson"), "registry", "serve", "--name", c.Name) //nolint:noctx // it outlives us
	command.Stdout, command.Stderr, command.ExtraFiles = log, log, []*os.File{ready}
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = command.Start()
	ready.Close()
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	if err := os.WriteFile(c.registryPIDFile(), []byte(strconv.Itoa(command.Process.Pid)), 0o600); err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	if line, err := bufio.NewReader(answer).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("start registry: it ended; see %s", log.Name())
	}
	return nil
}

// stopRegistry ends the registry process and waits for its end.
func (c *Cluster) stopRegistry(ctx context.Context) error {
	pid, err := c.registryPID()
	if err != nil || pid == 0 {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("stop registry: %w", err)
	}
	defer process.Release() //nolint:errcheck // nothing to lose
	if err := process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop registry: %w", err)
	}
	ended, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.Remove(c.registryPIDFile())
	}
	if err != nil {
		return fmt.Errorf("stop registry: %w", err)
	}
	defer unix.Close(ended)
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(5 * time.Second)
	}
	poll := []unix.PollFd{{Fd: int32(ended), Events: unix.POLLIN}}
	if n, _ := unix.Poll(poll, int(time.Until(deadline).Milliseconds())); n == 0 {
		_ = process.Kill() // it had its time
	}
	return os.Remove(c.registryPIDFile())
}

// registryPID is the process ID of the registry, or 0: a process ID that the kernel has given to another program is not it.
func (c *Cluster) registryPID() (int, error) {
	text, err := os.ReadFile(c.registryPIDFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read process ID of registry: %w", err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0, nil //nolint:nilerr // a torn file: the process that wrote it was killed
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "registry\x00serve\x00--name\x00"+c.Name+"\x00") {
		return 0, nil //nolint:nilerr // it ended
	}
	return pid, nil
}

func (c *Cluster) registryPIDFile() string { return filepath.Join(c.dir(), "registry.pid") }
