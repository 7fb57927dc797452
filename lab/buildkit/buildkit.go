// Package buildkit makes images from Dockerfiles. BuildKit's daemon runs for the time of one build, as root on the machine and without a
// containerd: it runs steps with the bundled runc, takes base images from the machine's registry and keeps its cache for the next build.
package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"golang.org/x/sys/unix"

	"keelson.dev/lab/registry"
)

// stopGrace is how long the daemon may take to end.
const stopGrace = 10 * time.Second

// Builder builds images.
type Builder struct {
	Bundle string       // folder of the programs
	Root   string       // folder of the cache
	Images http.Handler // the machine's registry, which also gets the result
}

// Options say what to build.
type Options struct {
	Tag        string
	Dockerfile string   // empty: Dockerfile in Context
	Context    string   // folder
	BuildArgs  []string // NAME=VALUE
	Target     string   // stage; empty: the last
	NoCache    bool
}

// Build makes the image and stores it under its tag in the machine's registry.
func (b Builder) Build(ctx context.Context, options Options) error {
	if _, err := name.NewTag(options.Tag); err != nil {
		return fmt.Errorf("image name %q: %w", options.Tag, err)
	}
	if options.Dockerfile == "" {
		options.Dockerfile = filepath.Join(options.Context, "Dockerfile")
	}
	recipe, err := os.ReadFile(options.Dockerfile)
	if err != nil {
		return fmt.Errorf("read Dockerfile: %w", err)
	}
	for _, program := range []string{"buildkitd", "buildctl"} {
		if _, err := os.Stat(filepath.Join(b.Bundle, program)); err != nil {
			return fmt.Errorf("no %s in %s: make buildkit builds it", program, b.Bundle)
		}
	}
	unlock, err := b.acquire()
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for base images: %w", err)
	}
	server := &http.Server{Handler: readOnly(b.Images), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	defer server.Close()
	known, err := registry.List(ctx, b.Images)
	if err != nil {
		return err
	}
	if err := b.configure(listener.Addr().String(), registriesOf(known, string(recipe)+"\n"+strings.Join(options.BuildArgs, "\n"))); err != nil {
		return err
	}
	if err := b.run(ctx, options); err != nil {
		return err
	}
	return b.store(ctx, options.Tag)
}

// readOnly lets nobody on the machine push by the builds' port.
func readOnly(images http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "base images are read here", http.StatusMethodNotAllowed)
			return
		}
		images.ServeHTTP(w, r)
	})
}

// acquire waits for a build that is under way: the daemon's folder is for one.
func (b Builder) acquire() (unlock func(), err error) {
	if err := os.MkdirAll(b.Root, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of builds: %w", err)
	}
	lock, err := os.OpenFile(b.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock builds: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock builds: %w", err)
	}
	return func() { lock.Close() }, nil
}

func (b Builder) path(name string) string { return filepath.Join(b.Root, name) }

// mentioned finds what may be a registry in a Dockerfile. It finds too much, which does no harm.
var mentioned = regexp.MustCompile(`[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*(?::[0-9]+)?/`)

// registriesOf are the registries from which a build may want base images: BuildKit knows no mirror of all.
func registriesOf(references []string, text string) []string {
	all := []string{"docker.io"}
	for _, reference := range references {
		if parsed, err := name.ParseReference(reference); err == nil && parsed.Context().RegistryStr() != name.DefaultRegistry {
			all = append(all, parsed.Context().RegistryStr())
		}
	}
	for _, word := range mentioned.FindAllString(text, -1) {
		if word = strings.TrimSuffix(word, "/"); strings.ContainsAny(word, ".:") {
			all = append(all, word)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var configTemplate = template.Must(template.New("buildkitd.toml").Parse(`root = "{{.Root}}/state"
[grpc]
  address = ["unix://{{.Root}}/buildkitd.sock"]
[otel]
  socketPath = "{{.Root}}/otel.sock"
[cdi]
  disabled = true
[history]
  maxEntries = 0
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  binary = "{{.Runc}}"
  networkMode = "host"
  defaultCgroupParent = "{{.Group}}"
[registry."{{.Mirror}}"]
  http = true
{{range .Registries}}[registry."{{.}}"]
  mirrors = ["{{$.Mirror}}"]
{{end}}`))

func (b Builder) configure(mirror string, registries []string) error {
	var text bytes.Buffer
	err := configTemplate.Execute(&text, struct {
		Root, Runc, Group, Mirror string
		Registries                []string
	}{b.Root, filepath.Join(b.Bundle, "runc"), controlGroup, mirror, registries})
	if err != nil {
		return fmt.Errorf("configuration of BuildKit: %w", err)
	}
	if err := os.WriteFile(b.path("buildkitd.toml"), text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("configuration of BuildKit: %w", err)
	}
	return nil
}

// run builds into the folder result.
func (b Builder) run(ctx context.Context, options Options) error {
	if err := os.RemoveAll(b.path("result")); err != nil {
		return fmt.Errorf("remove the last build's result: %w", err)
	}
	log, err := os.Create(b.path("buildkitd.log"))
	if err != nil {
		return fmt.Errorf("start BuildKit: %w", err)
	}
	defer log.Close()
	defer removeGroups()
	runtime.LockOSThread() // whose end is what Pdeathsig means
	defer runtime.UnlockOSThread()
	daemon := exec.CommandContext(ctx, filepath.Join(b.Bundle, "buildkitd"), "--config", b.path("buildkitd.toml"))
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	daemon.Cancel = func() error { return daemon.Process.Signal(unix.SIGTERM) }
	daemon.WaitDelay = stopGrace
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("start BuildKit: %w", err)
	}
	building, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(fmt.Errorf("BuildKit has ended (%w); see %s", daemon.Wait(), log.Name()))
	}()
	err = b.client(building, options)
	if cause := context.Cause(building); cause != nil {
		err = cause
	}
	if stopErr := daemon.Cancel(); stopErr != nil && !errors.Is(stopErr, os.ErrProcessDone) {
		err = errors.Join(err, stopErr)
	}
	kill := time.AfterFunc(stopGrace, func() { _ = daemon.Process.Kill() })
	defer kill.Stop()
	<-ended
	return err
}

func (b Builder) client(ctx context.Context, options Options) error {
	args := []string{
		"--addr", "unix://" + b.path("buildkitd.sock"), "--wait", "build", "--frontend", "dockerfile.v0",
		"--local", "context=" + options.Context, "--local", "dockerfile=" + filepath.Dir(options.Dockerfile),
		"--opt", "filename=" + filepath.Base(options.Dockerfile),
		"--opt", "cmdline=builtin", // the Dockerfile's # syntax line would fetch a frontend: the one within is used
		"--output", "type=oci,tar=false,compression=uncompressed,name=" + options.Tag + ",dest=" + b.path("result"),
	}
	for _, arg := range options.BuildArgs {
		args = append(args, "--opt", "build-arg:"+arg)
	}
	if options.Target != "" {
		args = append(args, "--opt", "target="+options.Target)
	}
	if options.NoCache {
		args = append(args, "--no-cache")
	}
	command := exec.CommandContext(ctx, filepath.Join(b.Bundle, "buildctl"), args...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("build %s: %w", options.Tag, err)
	}
	return nil
}

// controlGroup holds those of all steps.
const controlGroup = "keelson-build"

// removeGroups removes the empty control groups that BuildKit leaves, in the one hierarchy of version 2 or in those of version 1.
func removeGroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/" + controlGroup, "/sys/fs/cgroup/*/" + controlGroup} {
		groups, _ := filepath.Glob(pattern) // fails for a malformed pattern only
		for _, group := range groups {
			_ = os.Remove(filepath.Join(group, "buildkit")) // what is not empty stays
			_ = os.Remove(group)
		}
	}
}

// store pushes the result.
func (b Builder) store(ctx context.Context, tag string) error {
	defer os.RemoveAll(b.path("result"))
	image, err := onlyImage(b.path("result"))
	if err != nil {
		return fmt.Errorf("read the built image: %w", err)
	}
	return registry.Push(ctx, b.Images, tag, image)
}

func onlyImage(path string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsImage() {
		return nil, fmt.Errorf("it is not one image: %v", manifest.Manifests)
	}
	return index.Image(manifest.Manifests[0].Digest)
}
