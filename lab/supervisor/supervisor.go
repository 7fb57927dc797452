// Package supervisor keeps a list of processes running: it starts them in order, restarts what ends, reaps orphans when it is the
// first process of a node, and stops them in reverse order.
package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstDelay and lastDelay bound the pause before a process that keeps ending is started again.
	firstDelay = 50 * time.Millisecond
	lastDelay  = 5 * time.Second
	// steady is how long a process must have run for its pause to be forgotten.
	steady = 10 * time.Second
	// stopGrace is how long a process may take to end after SIGTERM.
	stopGrace = 8 * time.Second
	// maxLog is the size in bytes from which a log is set aside when its process starts.
	maxLog = 32 << 20
)

// Service is one process to keep running.
type Service struct {
	Name string   `json:"name"`
	Args []string `json:"args"` // absolute path of the program first
	Env  []string `json:"env,omitempty"`
	Log  string   `json:"log"` // file for its output
}

// running is a service and its process.
type running struct {
	Service
	process *os.Process
	started time.Time
	delay   time.Duration
}

// Run starts the services and keeps them running until ctx ends; then it stops them, the last one first.
func Run(ctx context.Context, services []Service) error {
	exits := make(chan int, 64) // more than services: orphans end here too
	go reap(exits)

	byPID := map[int]*running{}
	restarts := make(chan *running, len(services))
	all := make([]*running, 0, len(services))
	for _, service := range services {
		r := &running{Service: service, delay: firstDelay}
		if err := r.start(byPID); err != nil {
			return err
		}
		all = append(all, r)
	}
	for {
		select {
		case <-ctx.Done():
			stop(all, byPID, exits)
			return nil
		case pid := <-exits:
			r, ours := byPID[pid]
			if !ours {
				continue
			}
			delete(byPID, pid)
			r.process = nil
			if time.Since(r.started) > steady {
				r.delay = firstDelay
			}
			time.AfterFunc(r.delay, func() { restarts <- r })
			r.delay = min(2*r.delay, lastDelay)
		case r := <-restarts:
			if err := r.start(byPID); err != nil {
				fmt.Fprintln(os.Stderr, err)
				time.AfterFunc(lastDelay, func() { restarts <- r })
			}
		}
	}
}

func (r *running) start(byPID map[int]*running) error {
	log, err := openLog(r.Log)
	if err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	defer log.Close()
	process, err := os.StartProcess(r.Args[0], r.Args, &os.ProcAttr{
		Env:   append(os.Environ(), r.Env...),
		Files: []*os.File{nil, log, log},
		Sys:   &unix.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	r.process, r.started = process, time.Now()
	byPID[process.Pid] = r
	return nil
}

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// reap waits for every child that ends, ours or an orphan, and reports its process ID.
func reap(exits chan<- int) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid == 0:
			<-children
		default:
			exits <- pid
		}
	}
}

// stop ends the services one by one, the last first: what was started later may need what was started before.
func stop(all []*running, byPID map[int]*running, exits <-chan int) {
	for _, r := range slices.Backward(all) {
		if r.process == nil {
			continue
		}
		_ = r.process.Signal(unix.SIGTERM) // it may have ended already
		timeout := time.After(stopGrace)
		for r.process != nil {
			select {
			case pid := <-exits:
				if ended := byPID[pid]; ended != nil {
					ended.process = nil
				}
			case <-timeout:
				_ = r.process.Kill()
				timeout = nil
			}
		}
	}
}
