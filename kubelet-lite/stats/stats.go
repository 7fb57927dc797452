// Package stats gathers what the node, its pods and their containers use, for /stats/summary, the resource metrics and eviction.
// Containers are measured by the runtime, the node by the kernel's own files, and directories by walking them now and then.
package stats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"
)

// Config is what a Provider reads from. Runtime and Pods are required.
type Config struct {
	NodeName string
	RootDir  string // default /var/lib/kubelet
	LogDir   string // default /var/log/pods
	Runtime  runtimeapi.RuntimeServiceClient
	Images   runtimeapi.ImageServiceClient
	Pods     func() []*corev1.Pod
	// PodsCgroup finds the kubepods group of a controller (cgroups.Manager.RootDirectory); nil leaves that line out.
	PodsCgroup func(controller string) (dir string, ok bool)
	// PodCgroup finds that of a pod (cgroups.Manager.Directory); nil: nothing is told of disks.
	PodCgroup  func(controller string, pod *corev1.Pod) (dir string, ok bool)
	CgroupRoot string // default /sys/fs/cgroup
	Clock      clock.PassiveClock
}

// Provider is safe for concurrent use.
type Provider struct {
	cfg   Config
	start time.Time
	disk  *diskUsage

	mu    sync.Mutex
	rates map[string]sample
}

// New returns a provider.
func New(cfg Config) *Provider {
	if cfg.RootDir == "" {
		cfg.RootDir = "/var/lib/kubelet"
	}
	if cfg.LogDir == "" {
		cfg.LogDir = "/var/log/pods"
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "/sys/fs/cgroup"
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Provider{cfg: cfg, start: bootTime(cfg.Clock.Now()), disk: newDiskUsage(cfg.Clock), rates: map[string]sample{}}
}

// Summary is the answer to /stats/summary.
func (p *Provider) Summary(ctx context.Context) (*statsapi.Summary, error) {
	var sandboxes []*runtimeapi.PodSandboxStats
	var runtimeFs *statsapi.RuntimeStats
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		answer, err := p.cfg.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
		if err != nil {
			return fmt.Errorf("list pod sandbox stats: %w", err)
		}
		sandboxes = answer.Stats
		return nil
	})
	group.Go(func() (err error) {
		runtimeFs, err = p.runtimeFs(ctx)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	node.Runtime = runtimeFs
	summary := &statsapi.Summary{Node: *node, Pods: p.pods(sandboxes, runtimeFs)}
	p.forgetOldRates()
	return summary, nil
}

// Node is the node's part alone, cheap enough for eviction to ask often: it needs no call to the runtime but one for its disk.
func (p *Provider) Node(ctx context.Context) (*statsapi.NodeStats, error) {
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	node.Runtime, err = p.runtimeFs(ctx)
	return node, err
}

// sample is a counter's last value, to make a rate of the next.
type sample struct {
	at    time.Time
	value uint64
	rate  *uint64
}

const (
	// minRateInterval: a rate over less time says little; the one before is repeated.
	minRateInterval = time.Second
	// rateLife is for how long the counter of something gone is kept.
	rateLife = 10 * time.Minute
)

// rate returns nanoseconds of CPU per second since the last sample of key, or nil for the first.
func (p *Provider) rate(key string, at time.Time, value uint64) *uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.rates[key]
	elapsed := at.Sub(last.at)
	switch {
	case !ok || value < last.value: // new, or restarted
		p.rates[key] = sample{at: at, value: value}
		return nil
	case elapsed < minRateInterval:
		return last.rate
	}
	rate := uint64(float64(value-last.value) / elapsed.Seconds())
	p.rates[key] = sample{at: at, value: value, rate: &rate}
	return &rate
}

func (p *Provider) forgetOldRates() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, s := range p.rates {
		if p.cfg.Clock.Since(s.at) > rateLife {
			delete(p.rates, key)
		}
	}
}

func (p *Provider) runtimeFs(ctx context.Context) (*statsapi.RuntimeStats, error) {
	if p.cfg.Images == nil {
		return nil, nil
	}
	answer, err := p.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("image file system: %w", err)
	}
	image, err := p.imageFs(answer.ImageFilesystems)
	if err != nil {
		return nil, err
	}
	container := image
	if len(answer.ContainerFilesystems) > 0 {
		if container, err = p.imageFs(answer.ContainerFilesystems); err != nil {
			return nil, err
		}
	}
	return &statsapi.RuntimeStats{ImageFs: image, ContainerFs: container}, nil
}

func (p *Provider) imageFs(list []*runtimeapi.FilesystemUsage) (*statsapi.FsStats, error) {
	if len(list) == 0 {
		return nil, errors.New("the runtime names no file system for images")
	}
	fs, err := fileSystem(list[0].GetFsId().GetMountpoint(), p.cfg.Clock.Now())
	if err != nil {
		return nil, err
	}
	fs.UsedBytes, fs.InodesUsed = value(list[0].UsedBytes), value(list[0].InodesUsed)
	return fs, nil
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func timeOf(nanos int64, otherwise time.Time) metav1.Time {
	if nanos == 0 {
		return metav1.NewTime(otherwise)
	}
	return metav1.NewTime(time.Unix(0, nanos))
}
