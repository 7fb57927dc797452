// Package profile runs a list of plugins: it implements the scheduling framework's Handle and calls each extension point in
// order. A scheduler has one profile per scheduler name.
package profile

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/internal/apiclient"
	"keelson.dev/scheduler/cache"
	"keelson.dev/scheduler/metrics"
	"keelson.dev/scheduler/queue"
	"keelson.dev/scheduler/shape"
)

// Factory makes a plugin. args is the plugin's configuration object of kubescheduler.config.k8s.io/v1, a *runtime.Unknown for
// plugins that are not ours, or nil for the defaults.
type Factory func(ctx context.Context, args runtime.Object, handle fwk.Handle) (fwk.Plugin, error)

// Plugin is a plugin that a profile uses.
type Plugin struct {
	Name   string
	Weight int64
	New    Factory
	Args   runtime.Object
	// Only limits the plugin to these extension points; empty means all that it implements.
	Only []Point
	// Never excludes extension points.
	Never []Point
}

// Point names an extension point as KubeSchedulerConfiguration does.
type Point string

// The extension points, in the order in which they are called.
const (
	PreEnqueue Point = "preEnqueue"
	QueueSort  Point = "queueSort"
	PreFilter  Point = "preFilter"
	Filter     Point = "filter"
	PostFilter Point = "postFilter"
	PreScore   Point = "preScore"
	Score      Point = "score"
	Reserve    Point = "reserve"
	Permit     Point = "permit"
	PreBind    Point = "preBind"
	Bind       Point = "bind"
	PostBind   Point = "postBind"
)

// Shared is what the profiles of a scheduler have in common.
type Shared struct {
	Client     kubernetes.Interface
	RESTConfig *rest.Config
	Poster     *apiclient.Poster // nil in tests
	Informers  informers.SharedInformerFactory
	Recorder   events.EventRecorderLogger
	Snapshot   *cache.Snapshot
	// Queue is set after the profiles are made, since the queue asks their plugins.
	Queue     *queue.Queue
	Workers   fwk.Parallelizer
	Extenders []fwk.Extender
	DRA       fwk.SharedDRAManager
	CSI       fwk.CSIManager
	Metrics   *metrics.Metrics
}

// Profile is a set of plugins that runs. It implements fwk.Handle.
type Profile struct {
	name   string
	shared *Shared
	// PercentageOfNodesToScore is 0 for the adaptive default.
	PercentageOfNodesToScore int32

	preEnqueue []fwk.PreEnqueuePlugin
	queueSort  []fwk.QueueSortPlugin
	preFilter  []fwk.PreFilterPlugin
	filter     []fwk.FilterPlugin
	postFilter []fwk.PostFilterPlugin
	preScore   []fwk.PreScorePlugin
	score      []weighted
	reserve    []fwk.ReservePlugin
	permit     []fwk.PermitPlugin
	preBind    []fwk.PreBindPlugin
	bind       []fwk.BindPlugin
	postBind   []fwk.PostBindPlugin
	all        []fwk.Plugin
	// evaluations count the calls of each plugin at the extension points that look at pods and nodes, in the order of the plugins there.
	evaluations map[Point][]metrics.Counter

	waiting    *waitingPods
	preBinding *preBinding
}

type weighted struct {
	fwk.ScorePlugin
	weight int64
}

var _ fwk.Handle = &Profile{}

// New makes the plugins of a profile.
func New(ctx context.Context, name string, plugins []Plugin, shared *Shared) (*Profile, error) {
	p := &Profile{name: name, shared: shared, waiting: newWaitingPods(), preBinding: newPreBinding()}
	for _, spec := range plugins {
		plugin, err := spec.New(ctx, spec.Args, p)
		if err != nil {
			return nil, fmt.Errorf("make plugin %s: %w", spec.Name, err)
		}
		p.all = append(p.all, plugin)
		p.attach(plugin, spec)
	}
	if len(p.queueSort) != 1 {
		return nil, fmt.Errorf("profile %s: exactly one queueSort plugin is needed, there are %d", name, len(p.queueSort))
	}
	if len(p.bind) == 0 {
		return nil, fmt.Errorf("profile %s: at least one bind plugin is needed", name)
	}
	p.evaluations = map[Point][]metrics.Counter{
		PreFilter: counters(p, p.preFilter, "PreFilter"), Filter: counters(p, p.filter, "Filter"),
		PreScore: counters(p, p.preScore, "PreScore"), Score: counters(p, p.score, "Score"),
	}
	return p, nil
}

func counters[T fwk.Plugin](p *Profile, plugins []T, point string) []metrics.Counter {
	out := make([]metrics.Counter, len(plugins))
	for i, plugin := range plugins {
		out[i] = p.shared.Metrics.Evaluations(plugin.Name(), point, p.name)
	}
	return out
}

// attach registers a plugin at each extension point that it implements and that its configuration does not exclude.
func (p *Profile) attach(plugin fwk.Plugin, spec Plugin) {
	at := func(point Point) bool {
		return !slices.Contains(spec.Never, point) && (len(spec.Only) == 0 || slices.Contains(spec.Only, point))
	}
	attach(&p.preEnqueue, plugin, at(PreEnqueue))
	attach(&p.queueSort, plugin, at(QueueSort))
	attach(&p.preFilter, plugin, at(PreFilter))
	attach(&p.filter, plugin, at(Filter))
	attach(&p.postFilter, plugin, at(PostFilter))
	attach(&p.preScore, plugin, at(PreScore))
	if s, ok := plugin.(fwk.ScorePlugin); ok && at(Score) {
		p.score = append(p.score, weighted{s, max(spec.Weight, 1)})
	}
	attach(&p.reserve, plugin, at(Reserve))
	attach(&p.permit, plugin, at(Permit))
	attach(&p.preBind, plugin, at(PreBind))
	attach(&p.bind, plugin, at(Bind))
	attach(&p.postBind, plugin, at(PostBind))
}

func attach[T fwk.Plugin](list *[]T, plugin fwk.Plugin, wanted bool) {
	if t, ok := plugin.(T); ok && wanted {
		*list = append(*list, t)
	}
}

// NewEngine returns what decides on columns for the plugins of the profile that can; nil if they stand in an order that it does not know.
func (p *Profile) NewEngine() *shape.Engine {
	scores := make([]shape.Scorer, len(p.score))
	for i, s := range p.score {
		scores[i] = shape.Scorer{ScorePlugin: s.ScorePlugin, Weight: s.weight}
	}
	return shape.New(p.shared.Snapshot.Table(), p.filter, scores,
		func(i int) shape.Calls { return calls{p, "Filter", p.filter[i].Name(), p.evaluations[Filter][i]} },
		func(i int) shape.Calls { return calls{p, "Score", p.score[i].Name(), p.evaluations[Score][i]} })
}

// calls counts what a plugin does on columns.
type calls struct {
	profile       *Profile
	point, plugin string
	count         metrics.Counter
}

// Made implements shape.Calls.
func (c calls) Made(nodes int, took time.Duration) {
	c.count.Add(float64(nodes))
	if took > 0 {
		c.profile.shared.Metrics.Plugin(c.plugin, c.point, fwk.Success.String(), took)
	}
}

// Filters says whether the profile has a filter that is not among the given ones; Scores does so for scores.
func (p *Profile) Filters(without sets.Set[string]) bool {
	return slices.ContainsFunc(p.filter, func(f fwk.FilterPlugin) bool { return !without.Has(f.Name()) })
}

// Scores says whether the profile has a score that is not among the given ones and has something to say of a pod for which these
// filters had nothing to do.
func (p *Profile) Scores(without, skippedFilters sets.Set[string]) bool {
	return slices.ContainsFunc(p.score, func(s weighted) bool {
		_, follows := s.ScorePlugin.(ScoreFollowsFilter)
		return !without.Has(s.Name()) && (!follows || !skippedFilters.Has(s.Name()))
	})
}

// ScoreFollowsFilter is a plugin that scores nothing for a pod for which its PreFilter says Skip.
type ScoreFollowsFilter interface{ ScoreFollowsFilter() }

// PostFilters says whether the profile has PostFilter plugins besides the default one.
func (p *Profile) PostFilters() bool {
	return slices.ContainsFunc(p.postFilter, func(f fwk.PostFilterPlugin) bool { return f.Name() != "DefaultPreemption" })
}

// Less returns the order of the queue.
func (p *Profile) Less() fwk.LessFunc { return p.queueSort[0].Less }

// PreEnqueuePlugins returns the plugins that the queue asks.
func (p *Profile) PreEnqueuePlugins() []fwk.PreEnqueuePlugin { return p.preEnqueue }

// HasFilters says whether the profile runs any filter or score, so that scheduling can be skipped for a pod with one node.
func (p *Profile) HasFilters() bool { return len(p.filter)+len(p.preFilter) > 0 }

// Hints collects the events for which refused pods are tried again.
func (p *Profile) Hints(ctx context.Context) ([]queue.Hint, error) {
	var out []queue.Hint
	for _, plugin := range p.all {
		ext, ok := plugin.(fwk.EnqueueExtensions)
		if !ok {
			// It may refuse pods and says not when to ask again: any event will do.
			out = append(out, queue.Hint{Plugin: plugin.Name(), Event: fwk.ClusterEvent{Resource: fwk.WildCard, ActionType: fwk.All}})
			continue
		}
		events, err := ext.EventsToRegister(ctx)
		if err != nil {
			return nil, fmt.Errorf("events of plugin %s: %w", plugin.Name(), err)
		}
		for _, e := range events {
			out = append(out, queue.Hint{Plugin: plugin.Name(), Event: e.Event, Fn: e.QueueingHintFn})
		}
	}
	return out, nil
}

// AddNominatedPod implements fwk.PodNominator.
func (p *Profile) AddNominatedPod(logger klogLogger, pod fwk.PodInfo, info *fwk.NominatingInfo) {
	p.shared.Queue.Nominator.AddNominatedPod(logger, pod, info)
}

// DeleteNominatedPodIfExists implements fwk.PodNominator.
func (p *Profile) DeleteNominatedPodIfExists(pod *corev1.Pod) {
	p.shared.Queue.Nominator.DeleteNominatedPodIfExists(pod)
}

// UpdateNominatedPod implements fwk.PodNominator.
func (p *Profile) UpdateNominatedPod(logger klogLogger, old *corev1.Pod, info fwk.PodInfo) {
	p.shared.Queue.Nominator.UpdateNominatedPod(logger, old, info)
}

// NominatedPodsForNode implements fwk.PodNominator.
func (p *Profile) NominatedPodsForNode(node string) []fwk.PodInfo {
	return p.shared.Queue.Nominator.NominatedPodsForNode(node)
}

// Activate implements fwk.PodActivator.
func (p *Profile) Activate(logger klogLogger, pods map[string]*corev1.Pod) {
	p.shared.Queue.Activate(logger, pods)
}

// SnapshotSharedLister implements fwk.Handle.
func (p *Profile) SnapshotSharedLister() fwk.SharedLister { return p.shared.Snapshot }

// MutableSnapshotSharedLister implements fwk.Handle.
func (p *Profile) MutableSnapshotSharedLister() fwk.MutableSnapshotSharedLister {
	return p.shared.Snapshot
}

// ClientSet implements fwk.Handle.
func (p *Profile) ClientSet() kubernetes.Interface { return p.shared.Client }

// Post is a cheap way to create an object; see apiclient.Poster.
func (p *Profile) Post(ctx context.Context, path string, obj runtime.Object) (accepted bool, err error) {
	return p.shared.Poster.Post(ctx, path, obj)
}

// KubeConfig implements fwk.Handle.
func (p *Profile) KubeConfig() *rest.Config { return p.shared.RESTConfig }

// EventRecorder implements fwk.Handle.
func (p *Profile) EventRecorder() events.EventRecorderLogger { return p.shared.Recorder }

// SharedInformerFactory implements fwk.Handle.
func (p *Profile) SharedInformerFactory() informers.SharedInformerFactory { return p.shared.Informers }

// SharedDRAManager implements fwk.Handle.
func (p *Profile) SharedDRAManager() fwk.SharedDRAManager { return p.shared.DRA }

// SharedCSIManager implements fwk.Handle.
func (p *Profile) SharedCSIManager() fwk.CSIManager { return p.shared.CSI }

// Extenders implements fwk.Handle.
func (p *Profile) Extenders() []fwk.Extender { return p.shared.Extenders }

// Parallelizer implements fwk.Handle.
func (p *Profile) Parallelizer() fwk.Parallelizer { return p.shared.Workers }

// APIDispatcher implements fwk.Handle. Nil says, as the framework defines, that API calls are made directly.
func (p *Profile) APIDispatcher() fwk.APIDispatcher { return nil }

// APICacher implements fwk.Handle.
func (p *Profile) APICacher() fwk.APICacher { return nil }

// ProfileName implements fwk.Handle.
func (p *Profile) ProfileName() string { return p.name }

// PodGroupManager implements fwk.Handle. Pod groups are behind a gate that is off by default.
func (p *Profile) PodGroupManager() fwk.PodGroupManager { return nil }

// SignPod implements fwk.Handle. Nil means that results are not shared between pods.
func (p *Profile) SignPod(context.Context, *corev1.Pod) fwk.PodSignature { return nil }
