// Package scheduler gives every pending pod a node. It watches pods and nodes, decides one pod at a time against a snapshot of
// the cluster, and binds in the background; the plugins that decide live under plugins/.
//
//	queue.Pop -> decide: prefilter, filter (postfilter), score -> assume, reserve, permit -> [goroutine] prebind, bind, postbind
//	    ^------------- fail: the condition, an event, and back into the queue ------------'
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	clientcache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/config"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/leadership"
	"keelson.dev/internal/secureserving"
	"keelson.dev/scheduler/cache"
	"keelson.dev/scheduler/devices"
	"keelson.dev/scheduler/metrics"
	"keelson.dev/scheduler/plugins/dynamicresources"
	"keelson.dev/scheduler/profile"
	"keelson.dev/scheduler/queue"
	"keelson.dev/scheduler/shape"
	"keelson.dev/scheduler/why"
)

// Config says how a scheduler runs.
type Config struct {
	// RESTConfig reaches the API server; its user needs the rights of system:kube-scheduler.
	RESTConfig *rest.Config
	// Leader says whether, and by which Lease, one of several processes is chosen. What is as leadership.Defaults has it, the
	// configuration file may say otherwise.
	Leader config.LeaderElectionConfiguration
	// Identity is the name in the Lease. A name that stays the same over a restart lets the restarted scheduler go on at once;
	// it must be unique among those that run. Empty means the host name and a random part.
	Identity string
	// ConfigFile is a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1). Empty means the defaults. Its percentageOfNodesToScore
	// holds for the pods that are not decided on columns: with extenders, plugins that narrow the nodes down beforehand, or devices.
	ConfigFile string
	// Serving is the port of health, metrics and explanations.
	Serving secureserving.Config
	// Plugins are further plugins that the configuration may enable.
	Plugins []profile.Plugin
}

// LeaseName is the name of the Lease in kube-system that the one of several schedulers holds which works.
const LeaseName = "kube-scheduler"

// defaultParallelism is how many goroutines filter nodes, as upstream has it.
const defaultParallelism = 16

// maxBindings bounds the pods that are being bound: each may wait for volumes, and holds a goroutine then.
const maxBindings = 1024

// maxRequests bounds the requests that are under way at a time: below the 100 streams that upstream's API server takes over one
// connection.
const maxRequests = 64

// Run schedules until ctx ends. It returns nil when ctx is cancelled and an error when it cannot go on, such as a lost lease.
func Run(ctx context.Context, cfg Config) error {
	conf, err := loadConfig(cfg.ConfigFile)
	if err != nil {
		return err
	}
	restConfig := apiclient.Config(cfg.RESTConfig, "scheduler")
	connect(restConfig, &conf.ClientConnection)
	// Leases and reviews go another way than what the scheduler writes, which must not get out without the lease.
	if cfg.Serving.Client, err = apiclient.Clientset(restConfig); err != nil {
		return err
	}
	leader := leaderConfig(cfg.Leader, &conf.LeaderElection)
	gate := &leadership.Gate{}
	restConfig = rest.CopyConfig(restConfig)
	restConfig.Wrap(apiclient.Bounded(maxRequests))
	if leader.LeaderElect {
		restConfig.Wrap(gate.Wrap)
	}
	client, err := apiclient.Clientset(restConfig)
	if err != nil {
		return err
	}
	s, err := newScheduler(ctx, client, restConfig, conf, cfg.Plugins)
	if err != nil {
		return err
	}
	work := func(ctx context.Context) error { s.loop(ctx); return nil } //nolint:unparam // leading may fail
	if leader.LeaderElect {
		work = func(ctx context.Context) error {
			return leadership.Run(ctx, cfg.Serving.Client, leader, cfg.Identity, gate, func(ctx context.Context) error {
				s.loop(ctx)
				return nil
			})
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serve(ctx, cfg.Serving) })
	group.Go(func() error {
		err := s.run(ctx, work)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the scheduler ended")
		}
		return err
	})
	return group.Wait()
}

// Scheduler is a running scheduler.
type Scheduler struct {
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	pods      corelisters.PodLister
	cache     *cache.Cache
	snapshot  *cache.Snapshot
	queue     *queue.Queue
	profiles  map[string]*profile.Profile
	engines   map[string]*shape.Engine // by profile
	recorder  *recorder
	events    events.EventBroadcaster
	status    *statusWriter
	workers   fwk.Parallelizer
	extenders []fwk.Extender
	devices   *devices.Manager // nil: the API server serves no devices

	// handled says for each watch whether what was there at its start has reached the cache and the queue.
	handled []clientcache.InformerSynced
	// deciding guards the snapshot: the loop holds it while it decides.
	deciding  sync.Mutex
	why       *why.Log
	metrics   *metrics.Metrics
	synced    atomic.Bool   // the caches are filled
	bindings  chan struct{} // one for each pod that is being bound
	binders   chan func()
	inBinding sync.WaitGroup
	// nextStart is where the next scan of the nodes begins, so that scans that stop early share the nodes evenly.
	nextStart int
}

func newScheduler(ctx context.Context, client kubernetes.Interface, restConfig *rest.Config, conf *configv1.KubeSchedulerConfiguration, extra []profile.Plugin) (*Scheduler, error) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	parallelism := defaultParallelism
	if conf.Parallelism != nil {
		parallelism = int(*conf.Parallelism)
	}
	var poster *apiclient.Poster
	if restConfig != nil {
		var err error
		if poster, err = apiclient.NewPoster(restConfig); err != nil {
			return nil, err
		}
	}
	s := &Scheduler{
		client:    client,
		informers: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimFor(len(extra)+len(conf.Extenders) == 0))),
		cache:     cache.New(),
		snapshot:  cache.NewSnapshot(),
		profiles:  map[string]*profile.Profile{},
		engines:   map[string]*shape.Engine{},
		recorder:  newRecorder(client, poster, broadcaster),
		events:    broadcaster,
		status:    newStatusWriter(client),
		workers:   profile.Workers{Parallelism: parallelism},
		bindings:  make(chan struct{}, maxBindings),
		binders:   make(chan func(), maxBindings),
		why:       why.NewLog(),
	}
	s.metrics = s.newMetrics()
	s.pods = s.podInformer().Lister()
	shared := &profile.Shared{
		Client: client, RESTConfig: restConfig, Poster: poster, Informers: s.informers, Recorder: s.recorder, Snapshot: s.snapshot, Workers: s.workers,
		Metrics: s.metrics,
	}
	specs, err := profileSpecs(conf, extra)
	if err != nil {
		return nil, err
	}
	ignored, err := s.addExtenders(conf.Extenders)
	if err != nil {
		return nil, err
	}
	shared.Extenders = s.extenders
	qc := queue.Config{
		PreEnqueue: map[string][]fwk.PreEnqueuePlugin{},
		Hints:      map[string][]queue.Hint{},
	}
	if conf.PodInitialBackoffSeconds != nil {
		qc.InitialBackoff = time.Duration(*conf.PodInitialBackoffSeconds) * time.Second
	}
	if conf.PodMaxBackoffSeconds != nil {
		qc.MaxBackoff = time.Duration(*conf.PodMaxBackoffSeconds) * time.Second
	}
	if s.devices, err = devices.New(ctx, client.Discovery(), s.informers); err != nil {
		return nil, err
	}
	if s.devices != nil {
		shared.DRA = s.devices
	}
	for _, spec := range specs {
		if s.devices == nil {
			spec.plugins = slices.DeleteFunc(spec.plugins, func(p profile.Plugin) bool { return p.Name == dynamicresources.Name })
		}
		ignoreResources(spec.plugins, ignored)
		p, err := profile.New(ctx, spec.name, spec.plugins, shared)
		if err != nil {
			return nil, err
		}
		p.PercentageOfNodesToScore = spec.percentage
		s.profiles[spec.name], s.engines[spec.name] = p, p.NewEngine()
		qc.Less = p.Less()
		qc.PreEnqueue[spec.name] = p.PreEnqueuePlugins()
		if qc.Hints[spec.name], err = p.Hints(ctx); err != nil {
			return nil, err
		}
		if len(s.extenders) > 0 { // nobody knows when an extender would answer otherwise
			qc.Hints[spec.name] = append(qc.Hints[spec.name], queue.Hint{Plugin: extenderName, Event: fwk.ClusterEvent{Resource: fwk.WildCard, ActionType: fwk.All}})
		}
	}
	s.queue = queue.New(qc)
	shared.Queue = s.queue
	return s, s.watch(ctx, qc.Hints)
}

// run starts what works in the background, waits for the caches, does the work, and drains.
func (s *Scheduler) run(ctx context.Context, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.events.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("start event recorder: %w", err)
	}
	defer s.events.Shutdown()

	var background sync.WaitGroup
	background.Go(func() { s.queue.Run(ctx) })
	background.Go(func() { s.status.run(ctx) })
	s.informers.StartWithContext(ctx)
	defer s.informers.Shutdown()
	if s.devices != nil {
		defer s.devices.Stop()
	}
	for kind, synced := range s.informers.WaitForCacheSync(ctx.Done()) {
		if !synced && ctx.Err() == nil {
			return fmt.Errorf("the cache of %v did not sync", kind)
		}
	}
	if !clientcache.WaitForCacheSync(ctx.Done(), s.handled...) && ctx.Err() == nil {
		return errors.New("the watches did not sync")
	}
	s.synced.Store(true)
	err := work(ctx)
	cancel()
	background.Wait()
	return err
}

// loop schedules until ctx ends, and waits then for the pods that are being bound.
func (s *Scheduler) loop(ctx context.Context) {
	klog.FromContext(ctx).Info("Scheduling", "profiles", len(s.profiles))
	stop := context.AfterFunc(ctx, s.queue.Close)
	defer stop()
	defer s.startBinders()()
	for s.scheduleOne(ctx) {
	}
}

// responsible says whether one of the profiles schedules the pod.
func (s *Scheduler) responsible(pod *corev1.Pod) bool {
	_, ok := s.profiles[pod.Spec.SchedulerName]
	return ok
}
