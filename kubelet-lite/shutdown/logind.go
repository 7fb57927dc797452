package shutdown

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// logind is systemd's login manager, which tells who asks for it of a shutdown and waits for them (org.freedesktop.login1(5)).
type logind struct {
	conn    *dbus.Conn
	signals chan bool // true: the machine is going down; false: it is not, after all. Closed with the connection
	lock    *os.File  // while it is open, logind waits
}

const (
	loginName    = "org.freedesktop.login1"
	loginPath    = "/org/freedesktop/login1"
	loginManager = loginName + ".Manager"
	// dropIn raises the time that logind waits at most.
	dropIn = "/etc/systemd/logind.conf.d/99-kubelet.conf"
)

// openLogind connects to logind and has it wait for up to need at a shutdown. An error means that there is no logind, or none that
// grants this.
func openLogind(ctx context.Context, need time.Duration) (_ *logind, err error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	l := &logind{conn: conn, signals: make(chan bool)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := l.allow(need); err != nil {
		return nil, err
	}
	if err := conn.AddMatchSignal(dbus.WithMatchInterface(loginManager), dbus.WithMatchMember("PrepareForShutdown"), dbus.WithMatchObjectPath(loginPath)); err != nil {
		return nil, fmt.Errorf("follow logind: %w", err)
	}
	raw := make(chan *dbus.Signal, 4) // the library drops none while there is room
	conn.Signal(raw)
	go func() {
		defer close(l.signals)
		for s := range raw {
			if down, ok := s.Body[0].(bool); ok && s.Name == loginManager+".PrepareForShutdown" {
				select {
				case l.signals <- down:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return l, l.hold()
}

func (l *logind) close() {
	l.release()
	_ = l.conn.Close() // nothing more is asked
}

// hold takes the lock that delays a shutdown.
func (l *logind) hold() error {
	l.release()
	var fd dbus.UnixFD
	err := l.conn.Object(loginName, loginPath).Call(loginManager+".Inhibit", 0, "shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").Store(&fd)
	if err != nil {
		return fmt.Errorf("delay shutdowns: %w", err)
	}
	l.lock = os.NewFile(uintptr(fd), "inhibitor")
	return nil
}

func (l *logind) release() {
	if l.lock != nil {
		_ = l.lock.Close() // that is all there is to it
		l.lock = nil
	}
}

// allow sees to it that logind lets a shutdown wait for as long as is needed.
func (l *logind) allow(need time.Duration) error {
	most, err := l.longest()
	if err != nil || most >= need {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("# Written by the kubelet, for its shutdownGracePeriod.\n[Login]\nInhibitDelayMaxSec=%.0f\n", need.Seconds())
	if err := os.WriteFile(dropIn, []byte(text), 0o644); err != nil {
		return fmt.Errorf("raise logind's delay: %w", err)
	}
	systemd := l.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	if err := systemd.Call("org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", int32(unix.SIGHUP)).Err; err != nil {
		return fmt.Errorf("reload logind: %w", err)
	}
	deadline := time.After(reloadTime)
	for tick := time.Tick(reloadTime / 20); ; {
		if most, err = l.longest(); err != nil || most >= need {
			return err
		}
		select {
		case <-deadline:
			return fmt.Errorf("logind delays a shutdown by %s at most, and %s are configured", most, need)
		case <-tick:
		}
	}
}

// reloadTime is how long logind may take to read its configuration.
const reloadTime = 2 * time.Second

func (l *logind) longest() (time.Duration, error) {
	value, err := l.conn.Object(loginName, loginPath).GetProperty(loginManager + ".InhibitDelayMaxUSec")
	if err != nil {
		return 0, fmt.Errorf("ask logind for its longest delay: %w", err)
	}
	micros, _ := value.Value().(uint64)
	return time.Duration(micros) * time.Microsecond, nil
}
