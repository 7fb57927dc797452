package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is a keelson process of the cluster on the machine itself, beside the nodes: it outlives the command that starts it.
type daemon struct {
	name string   // of its log and of the file with its process ID
	args []string // after "keelson"; the process is known by them
	dir  string
	exe  string
}

func (c *Cluster) daemon(name string, args ...string) daemon {
	return daemon{name: name, args: args, dir: c.dir(), exe: filepath.Join(c.bundle, "keelson")}
}

func (d daemon) pidFile() string { return filepath.Join(d.dir, d.name+".pid") }

// start runs the process and returns when it says on its file descriptor 3 that it is ready. One that runs already is left alone.
func (d daemon) start(ctx context.Context) error {
	if pid, err := d.pid(); err != nil || pid != 0 {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, d.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer log.Close()
	answer, ready, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer answer.Close()
	command := exec.Command(d.exe, d.args...) //nolint:noctx // it outlives us
	command.Stdout, command.Stderr, command.ExtraFiles = log, log, []*os.File{ready}
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = command.Start()
	ready.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	if err := os.WriteFile(d.pidFile(), []byte(strconv.Itoa(command.Process.Pid)), 0o600); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer context.AfterFunc(ctx, func() { answer.Close() })()
	if line, err := bufio.NewReader(answer).ReadString('\n'); err != nil || line != "ready\n" {
		return errors.Join(fmt.Errorf("start %s: it is not ready; see %s", d.name, log.Name()), ctx.Err())
	}
	return nil
}

// stop ends the process and waits for its end.
func (d daemon) stop(ctx context.Context) error {
	pid, err := d.pid()
	if err != nil || pid == 0 {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("stop %s: %w", d.name, err)
	}
	defer process.Release() //nolint:errcheck // nothing to lose
	if err := process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", d.name, err)
	}
	ended, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.Remove(d.pidFile())
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", d.name, err)
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
	return os.Remove(d.pidFile())
}

// pid is the process ID, or 0: one that the kernel has given to another program is not it.
func (d daemon) pid() (int, error) {
	text, err := os.ReadFile(d.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read process ID of %s: %w", d.name, err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0, nil //nolint:nilerr // a torn file: the process that wrote it was killed
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "\x00"+strings.Join(d.args, "\x00")+"\x00") {
		return 0, nil //nolint:nilerr // it ended
	}
	return pid, nil
}

// stopDaemons stops all that runs on the machine for the cluster.
func (c *Cluster) stopDaemons(ctx context.Context) error {
	for _, d := range append(c.fleetDaemons(), c.registryDaemon(), c.balancerDaemon()) {
		if err := d.stop(ctx); err != nil {
			return err
		}
	}
	return nil
}
