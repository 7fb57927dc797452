// Package plugins finds node plugins (CSI drivers, device plugins, DRA drivers) by the sockets that they put into the
// registration directory, and tells the part of the agent that handles their type.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// The types that a plugin may announce.
const (
	CSI    = registerapi.CSIPlugin
	Device = registerapi.DevicePlugin
	DRA    = registerapi.DRAPlugin
)

// Plugin is what a registered plugin said of itself.
type Plugin struct {
	Name     string
	Endpoint string // the socket that it serves on
	Versions []string
}

// Handler is told of the plugins of one type. An error from Register is told to the plugin, which may try again.
type Handler interface {
	Register(ctx context.Context, plugin Plugin) error
	// Deregister may come after a newer instance of the same plugin, with another endpoint, has registered.
	Deregister(ctx context.Context, plugin Plugin)
}

const (
	// callTimeout bounds one call to a plugin.
	callTimeout = 10 * time.Second
	// firstRetry and lastRetry bound the back-off for a plugin whose socket is there before it answers.
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
)

// Watcher calls handlers as sockets come and go. Its calls come one at a time.
type Watcher struct {
	dir      string
	handlers map[string]Handler // by type
	known    map[string]registered
	retries  map[string]time.Duration
	retry    chan string
}

type registered struct {
	plugin  Plugin
	handler Handler
}

// NewWatcher watches dir, usually <root>/plugins_registry.
func NewWatcher(dir string, handlers map[string]Handler) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, known: map[string]registered{}, retries: map[string]time.Duration{}, retry: make(chan string)}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return err
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch plugins: %w", err)
	}
	defer func() { _ = events.Close() }()
	if err := w.scan(ctx, events, w.dir); err != nil {
		return fmt.Errorf("watch plugins: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case path := <-w.retry:
			w.appeared(ctx, events, path)
		case event := <-events.Events:
			switch {
			case event.Has(fsnotify.Create):
				w.appeared(ctx, events, event.Name)
			case event.Has(fsnotify.Remove), event.Has(fsnotify.Rename):
				w.vanished(ctx, event.Name)
			}
		case err := <-events.Errors:
			// The queue of events may have overflowed; what is there now is the truth.
			klog.FromContext(ctx).Error(err, "Plugin events were lost")
			if err := w.scan(ctx, events, w.dir); err != nil {
				return fmt.Errorf("watch plugins: %w", err)
			}
		}
	}
}

// scan watches dir and everything below, and looks at what is there already. The watch comes first, so nothing is missed.
func (w *Watcher) scan(ctx context.Context, events *fsnotify.Watcher, dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			return events.Add(path)
		}
		w.appeared(ctx, events, path)
		return nil
	})
}

func (w *Watcher) appeared(ctx context.Context, events *fsnotify.Watcher, path string) {
	info, err := os.Stat(path)
	if err != nil || strings.HasPrefix(filepath.Base(path), ".") {
		return
	}
	logger := klog.FromContext(ctx).WithValues("socket", path)
	if info.IsDir() {
		if err := w.scan(ctx, events, path); err != nil {
			logger.Error(err, "Plugin directory cannot be watched")
		}
		return
	}
	if _, known := w.known[path]; known || info.Mode()&fs.ModeSocket == 0 {
		return
	}
	found, err := w.register(ctx, path)
	if err != nil {
		logger.Error(err, "Plugin was not registered")
		w.again(ctx, path)
		return
	}
	delete(w.retries, path)
	w.known[path] = found
	logger.Info("Plugin registered", "plugin", found.plugin.Name)
}

// again looks at a socket once more after a growing while.
func (w *Watcher) again(ctx context.Context, path string) {
	delay := min(max(2*w.retries[path], firstRetry), lastRetry)
	w.retries[path] = delay
	time.AfterFunc(delay, func() {
		select {
		case w.retry <- path:
		case <-ctx.Done():
		}
	})
}

func (w *Watcher) vanished(ctx context.Context, path string) {
	delete(w.retries, path)
	gone, ok := w.known[path]
	if !ok {
		return
	}
	delete(w.known, path)
	// A plugin that registered again under another name of the socket is the same plugin still.
	for _, other := range w.known {
		if other.plugin.Name == gone.plugin.Name && other.plugin.Endpoint == gone.plugin.Endpoint && other.handler == gone.handler {
			return
		}
	}
	gone.handler.Deregister(ctx, gone.plugin)
	klog.FromContext(ctx).Info("Plugin deregistered", "plugin", gone.plugin.Name)
}

func (w *Watcher) register(ctx context.Context, socket string) (registered, error) {
	conn, err := Dial(socket)
	if err != nil {
		return registered{}, err
	}
	defer func() { _ = conn.Close() }()
	client := registerapi.NewRegistrationClient(conn)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := client.GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return registered{}, fmt.Errorf("ask plugin for its type: %w", err)
	}
	plugin := Plugin{Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions}
	if plugin.Endpoint == "" {
		plugin.Endpoint = socket
	}
	handler, refusal := w.handlers[info.Type], error(nil)
	if handler == nil {
		refusal = fmt.Errorf("no handler registered for plugin type: %s", info.Type)
	} else {
		refusal = handler.Register(ctx, plugin)
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: refusal == nil}
	if refusal != nil {
		status.Error = refusal.Error()
	}
	if _, err := client.NotifyRegistrationStatus(ctx, status); err != nil && refusal == nil {
		handler.Deregister(ctx, plugin)
		return registered{}, fmt.Errorf("notify plugin: %w", err)
	}
	return registered{plugin, handler}, refusal
}

// Dial connects to a plugin's socket; the connection is made with the first call and again after the plugin has restarted.
func Dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, fmt.Errorf("connect to plugin: %w", err)
	}
	return conn, nil
}
