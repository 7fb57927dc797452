package cgroups

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"k8s.io/apimachinery/pkg/types"
)

// jobTimeout bounds how long systemd may take to start or stop a slice.
const jobTimeout = 30 * time.Second

// systemd is the driver that asks systemd for slices, which it needs to know of, or it would undo what others write. The values
// are set both as the slice's properties, so that they survive a daemon-reload, and as files, for what systemd has no name for.
type systemd struct {
	tree hierarchy

	mu   sync.Mutex
	conn *sd.Conn
}

func (s *systemd) connection(ctx context.Context) (*sd.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	conn, err := sd.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	s.conn = conn
	return conn, nil
}

// slice names a group as systemd.slice(5) says: a dash separates levels, so it cannot stand within one.
func slice(g group) string {
	parts := make([]string, len(g))
	for i, part := range g {
		parts[i] = strings.ReplaceAll(strings.TrimSuffix(part, ".slice"), "-", "_")
	}
	return strings.Join(parts, "-") + ".slice"
}

func slicePath(g group) group {
	path := make(group, len(g))
	for i := range g {
		path[i] = slice(g[:i+1])
	}
	return path
}

func (s *systemd) dir(g group) string    { return "/" + strings.Join(slicePath(g), "/") }
func (s *systemd) parent(g group) string { return slice(g) }

func (s *systemd) uid(name string) (types.UID, bool) {
	i := strings.LastIndex(name, "-pod")
	if i < 0 || !strings.HasSuffix(name, ".slice") {
		return "", false
	}
	return types.UID(strings.ReplaceAll(strings.TrimSuffix(name[i+len("-pod"):], ".slice"), "_", "-")), true
}

func (s *systemd) ensure(g group, l limits) error {
	ctx, cancel := context.WithTimeout(context.Background(), jobTimeout)
	defer cancel()
	conn, err := s.connection(ctx)
	if err != nil {
		return err
	}
	name, values := slice(g), l.properties(s.tree.v2)
	if err := s.start(ctx, conn, g, values); err != nil {
		return err
	}
	if err := conn.SetUnitPropertiesContext(ctx, name, true, values...); err != nil {
		return fmt.Errorf("set properties of %s: %w", name, err)
	}
	files := cgroupfs{s.tree}
	for _, mount := range s.tree.mounts() {
		if err := files.makeDirs(mount, slicePath(g)); err != nil {
			return err
		}
	}
	return files.write(s.dir(g), l)
}

func (s *systemd) start(ctx context.Context, conn *sd.Conn, g group, values []sd.Property) error {
	name := slice(g)
	properties := append([]sd.Property{
		sd.PropDescription("Keelson pods: " + strings.Join(g, "/")),
		property("DefaultDependencies", false), property("CPUAccounting", true),
		property("MemoryAccounting", true), property("TasksAccounting", true),
	}, values...)
	if len(g) > 1 {
		properties = append(properties, sd.PropWants(slice(g[:len(g)-1])))
	}
	done := make(chan string, 1)
	_, err := conn.StartTransientUnitContext(ctx, name, "replace", properties, done)
	var remote dbus.Error
	if errors.As(err, &remote) && remote.Name == "org.freedesktop.systemd1.UnitExists" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return waitJob(ctx, name, done)
}

func waitJob(ctx context.Context, name string, done <-chan string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd job for %s: %s", name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("systemd job for %s: %w", name, ctx.Err())
	}
}

func property(name string, value any) sd.Property {
	return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// properties are the limits in systemd's terms.
func (l limits) properties(v2 bool) []sd.Property {
	var out []sd.Property
	add := func(name string, value int64) {
		switch {
		case value > 0:
			out = append(out, property(name, uint64(value)))
		case value < 0:
			out = append(out, property(name, uint64(math.MaxUint64)))
		}
	}
	if v2 {
		add("CPUWeight", weightOrZero(l.shares))
		add("MemoryMax", l.memory)
	} else {
		add("CPUShares", l.shares)
		add("MemoryLimit", l.memory)
	}
	if l.quotaUS > 0 {
		// systemd rounds to 10 ms per second; rounding up never gives less than was asked for.
		perSecond := l.quotaUS * int64(time.Second/time.Microsecond) / periodUS
		add("CPUQuotaPerSecUSec", (perSecond+9999)/10000*10000)
	} else {
		add("CPUQuotaPerSecUSec", l.quotaUS)
	}
	add("TasksMax", l.pids)
	return out
}

func (s *systemd) remove(ctx context.Context, g group) error {
	files := cgroupfs{s.tree}
	present := false
	for _, mount := range s.tree.mounts() {
		dirs, err := subgroups(mount + s.dir(g))
		if err != nil {
			return err
		}
		present = present || len(dirs) > 0
	}
	if !present {
		return nil
	}
	conn, err := s.connection(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	name := slice(g)
	if _, err := conn.StopUnitContext(ctx, name, "replace", done); err == nil {
		if err := waitJob(ctx, name, done); err != nil {
			return err
		}
	}
	return files.remove(ctx, slicePath(g)) // whatever systemd does not know of, and v1 hierarchies that it leaves alone
}
