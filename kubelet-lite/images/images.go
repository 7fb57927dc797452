// Package images gets the images of containers: when the pull policy says so, with the credentials that the pod brings, a bounded
// number at a time, and with a back-off per pod and image. It also frees the disk of images that nobody uses.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"keelson.dev/kubelet-lite/cri"
)

// Reasons of a waiting container, as users know them.
const (
	ReasonErrImagePull      = "ErrImagePull"
	ReasonImagePullBackOff  = "ImagePullBackOff"
	ReasonErrNeverPull      = "ErrImageNeverPull"
	ReasonInvalidName       = "InvalidImageName"
	ReasonInspectFailed     = "ImageInspectError"
	ReasonRegistryDown      = "RegistryUnavailable"
	ReasonSignatureRejected = "SignatureValidationFailed"
)

const (
	backOffStart = 10 * time.Second
	backOffMax   = 5 * time.Minute
)

// Secrets is where pull secrets come from.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Config of a Manager.
type Config struct {
	Images  criapi.ImageManagerService
	Secrets Secrets
	// Providers are the node's own sources of credentials.
	Providers []*Provider
	Recorder  record.EventRecorder
	Clock     clock.Clock
	// Parallel bounds the pulls that run at once: more only share the same line and disk.
	Parallel int
}

// Manager is safe for concurrent use.
type Manager struct {
	cfg   Config
	slots chan struct{}

	mu      sync.Mutex
	backOff map[backOffKey]*entry
}

type backOffKey struct {
	pod   types.UID
	image string
}

type entry struct {
	delay   time.Duration
	until   time.Time
	message string
}

// Error is why an image is not there, as the container's waiting state shows it, and when to try again.
type Error struct {
	Reason, Message string
	RetryAt         time.Time
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// New returns a manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, slots: make(chan struct{}, max(cfg.Parallel, 1)), backOff: map[backOffKey]*entry{}}
}

// Image is a present image.
type Image struct {
	Ref     string // what a container is created from
	User    cri.ImageUser
	Digests []string
}

// Forget drops the back-off of a pod that is gone.
func (m *Manager) Forget(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.backOff {
		if key.pod == pod {
			delete(m.backOff, key)
		}
	}
}

// Ensure makes sure that a container's image is present and returns it; its error is an *Error.
func (m *Manager) Ensure(ctx context.Context, pod *corev1.Pod, c *corev1.Container, handler string) (*Image, error) {
	return m.EnsureNamed(ctx, pod, c.Name, c.Image, c.ImagePullPolicy, handler)
}

// EnsureNamed is Ensure for an image that is not a container's own: an image volume. object names it in events.
func (m *Manager) EnsureNamed(ctx context.Context, pod *corev1.Pod, container, name string, policy corev1.PullPolicy, handler string) (*Image, error) {
	now := m.cfg.Clock.Now()
	ref, err := normalize(name)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", name, name, err)
		m.event(pod, container, corev1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{ReasonInvalidName, message, now.Add(backOffMax)}
	}
	spec := &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: name, RuntimeHandler: handler}
	present, err := m.status(ctx, spec)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", ref, err)
		m.event(pod, container, corev1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{ReasonInspectFailed, message, now.Add(backOffStart)}
	}
	if present != nil && !mustPull(policy, ref) {
		m.event(pod, container, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", name))
		return present, nil
	}
	if policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
		m.event(pod, container, corev1.EventTypeWarning, "ErrImageNeverPull", message)
		return nil, &Error{ReasonErrNeverPull, message, now.Add(backOffStart)}
	}
	key := backOffKey{pod.UID, ref}
	if wait := m.waiting(key, now); wait != nil {
		message := fmt.Sprintf("Back-off pulling image %q", name)
		m.event(pod, container, corev1.EventTypeNormal, "BackOff", message)
		return nil, &Error{ReasonImagePullBackOff, message + ": " + wait.message, wait.until}
	}
	return m.pull(ctx, pod, container, name, spec, policy, key)
}

func mustPull(policy corev1.PullPolicy, ref string) bool {
	return policy == corev1.PullAlways || policy == "" && strings.HasSuffix(ref, ":latest")
}

func (m *Manager) pull(ctx context.Context, pod *corev1.Pod, container, name string, spec *runtimeapi.ImageSpec, policy corev1.PullPolicy, key backOffKey) (*Image, error) {
	queued := m.cfg.Clock.Now()
	m.event(pod, container, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", name))
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, &Error{Reason: ReasonErrImagePull, Message: ctx.Err().Error(), RetryAt: queued}
	}
	defer func() { <-m.slots }()
	if present, err := m.status(ctx, spec); err == nil && present != nil && !mustPull(policy, spec.Image) {
		return present, nil // another pod's pull brought it while this one waited for its turn
	}
	started := m.cfg.Clock.Now()
	image, err := m.pullWithAuth(ctx, pod, spec)
	if ctx.Err() != nil {
		return nil, &Error{Reason: ReasonErrImagePull, Message: ctx.Err().Error(), RetryAt: m.cfg.Clock.Now()}
	}
	if err != nil {
		return nil, m.failed(pod, container, name, key, err)
	}
	m.mu.Lock()
	delete(m.backOff, key)
	m.mu.Unlock()
	now := m.cfg.Clock.Now()
	m.event(pod, container, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		name, now.Sub(started).Truncate(time.Millisecond), now.Sub(queued).Truncate(time.Millisecond), image.size))
	return &image.Image, nil
}

func (m *Manager) failed(pod *corev1.Pod, container, name string, key backOffKey, err error) *Error {
	reason, text := ReasonErrImagePull, fmt.Sprintf("failed to pull and unpack image %q: %v", name, err)
	switch {
	case strings.Contains(err.Error(), ReasonRegistryDown):
		reason = ReasonRegistryDown
	case strings.Contains(err.Error(), ReasonSignatureRejected):
		reason = ReasonSignatureRejected
	default:
		text = err.Error()
	}
	m.event(pod, container, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", name, err))
	m.event(pod, container, corev1.EventTypeWarning, "Failed", "Error: "+reason)
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.backOff[key]
	if e == nil {
		e = &entry{delay: backOffStart / 2}
		m.backOff[key] = e
	}
	e.delay = min(2*e.delay, backOffMax)
	e.until, e.message = m.cfg.Clock.Now().Add(e.delay), reason+": "+text
	// The worker asks again a moment later to turn the error into a back-off, as users know it from `kubectl get pods -w`.
	return &Error{reason, text, m.cfg.Clock.Now().Add(time.Second)}
}

func (m *Manager) waiting(key backOffKey, now time.Time) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.backOff[key]; e != nil && e.until.After(now) {
		copied := *e
		return &copied
	}
	return nil
}

type pulled struct {
	Image
	size uint64
}

// pullWithAuth tries each credential that matches the image, and without any if none does.
func (m *Manager) pullWithAuth(ctx context.Context, pod *corev1.Pod, spec *runtimeapi.ImageSpec) (*pulled, error) {
	auths, err := m.credentials(ctx, pod, spec.Image)
	if err != nil {
		return nil, err
	}
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, auth := range auths {
		if _, err := m.cfg.Images.PullImage(ctx, spec, auth, nil); err != nil {
			errs = append(errs, err)
			continue
		}
		resp, err := m.cfg.Images.ImageStatus(ctx, spec, false)
		if err != nil {
			return nil, fmt.Errorf("inspect pulled image: %w", err)
		}
		if resp.Image == nil {
			return nil, errors.New("image is gone right after it was pulled")
		}
		return &pulled{imageFrom(resp.Image), resp.Image.Size}, nil
	}
	return nil, errors.Join(errs...)
}

func (m *Manager) status(ctx context.Context, spec *runtimeapi.ImageSpec) (*Image, error) {
	resp, err := m.cfg.Images.ImageStatus(ctx, spec, false)
	if err != nil || resp.Image == nil {
		return nil, err
	}
	image := imageFrom(resp.Image)
	return &image, nil
}

func imageFrom(i *runtimeapi.Image) Image {
	out := Image{Ref: i.Id, Digests: i.RepoDigests, User: cri.ImageUser{Name: i.Username}}
	switch {
	case i.Uid != nil:
		out.User.UID = &i.Uid.Value
	case i.Username == "":
		out.User.UID = new(int64) // an image that names nobody runs as root
	}
	return out
}

// normalize adds the tag that an image name without tag and digest stands for.
func normalize(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	_, tagged := named.(reference.Tagged)
	_, digested := named.(reference.Digested)
	if !tagged && !digested {
		return name + ":latest", nil
	}
	return name, nil
}

func (m *Manager) event(pod *corev1.Pod, container, kind, reason, message string) {
	m.cfg.Recorder.Event(cri.ContainerReference(pod, container), kind, reason, message)
}
