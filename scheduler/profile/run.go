package profile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/metrics"
)

// maxPermitWait bounds how long a Permit plugin may hold a pod, so that a lost signal does not keep its resources for ever.
const maxPermitWait = 15 * time.Minute

// timed calls a plugin and, in the attempts that are measured, takes the time.
func (p *Profile) timed(state fwk.CycleState, plugin fwk.Plugin, point string, call func() *fwk.Status) *fwk.Status {
	if !state.ShouldRecordPluginMetrics() {
		return call()
	}
	started := time.Now()
	s := call()
	p.shared.Metrics.Plugin(plugin.Name(), point, s.Code().String(), time.Since(started))
	return s
}

// RunPreFilter prepares the plugins for one pod, but for those in without, whose filters will not run. On refusal the diagnosis says
// by whom.
func (p *Profile) RunPreFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo, without sets.Set[string],
) (result *fwk.PreFilterResult, status *fwk.Status, limiters sets.Set[string]) {
	skip := without.Clone()
	limiters = sets.New[string]()
	var refused *fwk.Status
	for i, plugin := range p.preFilter {
		if without.Has(plugin.Name()) {
			continue
		}
		var r *fwk.PreFilterResult
		s := p.timed(state, plugin, "PreFilter", func() (s *fwk.Status) {
			r, s = plugin.PreFilter(ctx, state, pod, nodes)
			return s
		})
		if s.IsSkip() {
			skip.Insert(plugin.Name())
			continue
		}
		p.evaluations[PreFilter][i].Inc()
		if !s.IsSuccess() {
			s.SetPlugin(plugin.Name())
			if s.Code() == fwk.Unschedulable {
				refused = s // preemption may help, and needs what the others prepare
				continue
			}
			if !s.IsRejected() {
				s = fwk.AsStatus(fmt.Errorf("running PreFilter plugin %q: %w", plugin.Name(), s.AsError())).WithPlugin(plugin.Name())
			}
			return nil, s, limiters
		}
		if !r.AllNodes() {
			limiters.Insert(plugin.Name())
		}
		result = result.Merge(r)
		if !result.AllNodes() && result.NodeNames.Len() == 0 {
			msg := fmt.Sprintf("node(s) didn't satisfy plugin(s) %v simultaneously", sets.List(limiters))
			if limiters.Len() == 1 {
				msg = fmt.Sprintf("node(s) didn't satisfy plugin %v", sets.List(limiters)[0])
			}
			return result, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, msg), limiters
		}
	}
	state.SetSkipFilterPlugins(skip)
	return result, refused, limiters
}

// RunFilterPlugins implements fwk.PluginsRunner.
func (p *Profile) RunFilterPlugins(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	skip := state.GetSkipFilterPlugins()
	count := p.evaluations[Filter]
	for i, plugin := range p.filter {
		if skip.Has(plugin.Name()) {
			continue
		}
		count[i].Inc()
		s := p.timed(state, plugin, "Filter", func() *fwk.Status { return plugin.Filter(ctx, state, pod, node) })
		if !s.IsSuccess() {
			if !s.IsRejected() {
				s = fwk.AsStatus(fmt.Errorf("running %q filter plugin: %w", plugin.Name(), s.AsError()))
			}
			return s.WithPlugin(plugin.Name())
		}
	}
	return nil
}

// RunFilterPluginsWithNominatedPods implements fwk.Handle. If pods of the same or a higher priority wait for room on the node,
// the pod must fit with them and without them: with them, since the room is theirs; without them, since they may never come and
// the pod must not rely on them (for its affinity).
func (p *Profile) RunFilterPluginsWithNominatedPods(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	nominated := p.nominatedBefore(pod, node)
	if len(nominated) > 0 {
		state2, node2 := state.Clone(), node.Snapshot()
		for _, info := range nominated {
			node2.AddPodInfo(info)
			if s := p.RunPreFilterExtensionAddPod(ctx, state2, pod, info, node2); !s.IsSuccess() {
				return s
			}
		}
		if s := p.RunFilterPlugins(ctx, state2, pod, node2); !s.IsSuccess() {
			return s
		}
	}
	return p.RunFilterPlugins(ctx, state, pod, node)
}

func (p *Profile) nominatedBefore(pod *corev1.Pod, node fwk.NodeInfo) []fwk.PodInfo {
	var out []fwk.PodInfo
	for _, info := range p.NominatedPodsForNode(node.Node().Name) {
		if info.GetPod().UID != pod.UID && priority(info.GetPod()) >= priority(pod) {
			out = append(out, info)
		}
	}
	return out
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// RunPreFilterExtensionAddPod implements fwk.PluginsRunner.
func (p *Profile) RunPreFilterExtensionAddPod(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, added fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return p.runExtensions(state, "AddPod", func(e fwk.PreFilterExtensions) *fwk.Status {
		return e.AddPod(ctx, state, pod, added, node)
	})
}

// RunPreFilterExtensionRemovePod implements fwk.PluginsRunner.
func (p *Profile) RunPreFilterExtensionRemovePod(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, removed fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	return p.runExtensions(state, "RemovePod", func(e fwk.PreFilterExtensions) *fwk.Status {
		return e.RemovePod(ctx, state, pod, removed, node)
	})
}

func (p *Profile) runExtensions(state fwk.CycleState, what string, call func(fwk.PreFilterExtensions) *fwk.Status) *fwk.Status {
	for _, plugin := range p.preFilter {
		ext := plugin.PreFilterExtensions()
		if ext == nil || state.GetSkipFilterPlugins().Has(plugin.Name()) {
			continue
		}
		s := p.timed(state, plugin, "PreFilterExtension"+what, func() *fwk.Status { return call(ext) })
		if !s.IsSuccess() {
			return fwk.AsStatus(fmt.Errorf("running %s on PreFilter plugin %q: %w", what, plugin.Name(), s.AsError()))
		}
	}
	return nil
}

// RunPostFilter asks the plugins, in order, to make room. The first that succeeds or fails ends it; the messages of those that
// could not help are joined.
func (p *Profile) RunPostFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, statuses fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	var result *fwk.PostFilterResult
	var reasons []string
	rejector := ""
	for _, plugin := range p.postFilter {
		var r *fwk.PostFilterResult
		s := p.timed(state, plugin, "PostFilter", func() (s *fwk.Status) {
			r, s = plugin.PostFilter(ctx, state, pod, statuses)
			return s
		})
		switch {
		case s.IsSuccess():
			return r, s
		case !s.IsRejected():
			return nil, fwk.AsStatus(s.AsError()).WithPlugin(plugin.Name())
		}
		if r != nil && r.Mode() != fwk.ModeNoop {
			result = r
		}
		reasons = append(reasons, s.Reasons()...)
		if rejector == "" {
			rejector = plugin.Name()
		}
	}
	return result, fwk.NewStatus(fwk.Unschedulable, reasons...).WithPlugin(rejector)
}

// RunPreScorePlugins implements fwk.PluginsRunner.
func (p *Profile) RunPreScorePlugins(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	return p.RunPreScore(ctx, state, pod, nodes, sets.New[string]())
}

// RunPreScore prepares the plugins to score, but for those in without, whose scores will not run.
func (p *Profile) RunPreScore(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo, without sets.Set[string]) *fwk.Status {
	skip := without.Clone()
	for i, plugin := range p.preScore {
		if without.Has(plugin.Name()) {
			continue
		}
		s := p.timed(state, plugin, "PreScore", func() *fwk.Status { return plugin.PreScore(ctx, state, pod, nodes) })
		if s.IsSkip() {
			skip.Insert(plugin.Name())
			continue
		}
		p.evaluations[PreScore][i].Inc()
		if !s.IsSuccess() {
			return fwk.AsStatus(fmt.Errorf("running PreScore plugin %q: %w", plugin.Name(), s.AsError()))
		}
	}
	state.SetSkipScorePlugins(skip)
	return nil
}

// RunScorePlugins implements fwk.PluginsRunner.
func (p *Profile) RunScorePlugins(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) ([]fwk.NodePluginScores, *fwk.Status) {
	out := make([]fwk.NodePluginScores, len(nodes))
	for i, n := range nodes {
		out[i].Name = n.Node().Name
	}
	for i, plugin := range p.score {
		if state.GetSkipScorePlugins().Has(plugin.Name()) {
			continue
		}
		scores, err := p.scoreWith(ctx, plugin, p.evaluations[Score][i], state, pod, nodes)
		if err != nil {
			return nil, fwk.AsStatus(fmt.Errorf("running Score plugin %q: %w", plugin.Name(), err))
		}
		for i, s := range scores {
			if s.Score > fwk.MaxScore || s.Score < fwk.MinScore {
				return nil, fwk.AsStatus(fmt.Errorf("plugin %q returns an invalid score %d, it must be in [%d, %d]",
					plugin.Name(), s.Score, fwk.MinScore, fwk.MaxScore))
			}
			total := s.Score * plugin.weight
			out[i].Scores = append(out[i].Scores, fwk.PluginScore{Name: plugin.Name(), Score: total})
			out[i].TotalScore += total
		}
	}
	return out, nil
}

func (p *Profile) scoreWith(ctx context.Context, plugin weighted, count metrics.Counter, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (fwk.NodeScoreList, error) {
	scores := make(fwk.NodeScoreList, len(nodes))
	var failed errorOnce
	p.shared.Workers.Until(ctx, len(nodes), func(i int) {
		var value int64
		count.Inc()
		s := p.timed(state, plugin, "Score", func() (s *fwk.Status) {
			value, s = plugin.Score(ctx, state, pod, nodes[i])
			return s
		})
		if !s.IsSuccess() {
			failed.set(s.AsError())
			return
		}
		scores[i] = fwk.NodeScore{Name: nodes[i].Node().Name, Score: value}
	}, "Score")
	if err := failed.get(); err != nil {
		return nil, err
	}
	if ext := plugin.ScoreExtensions(); ext != nil {
		s := p.timed(state, plugin, "ScoreExtensionNormalize", func() *fwk.Status { return ext.NormalizeScore(ctx, state, pod, scores) })
		if !s.IsSuccess() {
			return nil, s.AsError()
		}
	}
	return scores, nil
}

// RunReservePluginsReserve implements fwk.PluginsRunner.
func (p *Profile) RunReservePluginsReserve(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	for _, plugin := range p.reserve {
		s := p.timed(state, plugin, "Reserve", func() *fwk.Status { return plugin.Reserve(ctx, state, pod, node) })
		if !s.IsSuccess() {
			if s.IsRejected() {
				return s.WithPlugin(plugin.Name())
			}
			return fwk.AsStatus(fmt.Errorf("running Reserve plugin %q: %w", plugin.Name(), s.AsError()))
		}
	}
	return nil
}

// RunReservePluginsUnreserve implements fwk.PluginsRunner. It runs in reverse order.
func (p *Profile) RunReservePluginsUnreserve(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) {
	for _, plugin := range slices.Backward(p.reserve) {
		p.timed(state, plugin, "Unreserve", func() *fwk.Status { plugin.Unreserve(ctx, state, pod, node); return nil })
	}
}

// RunPermit asks whether the pod may be bound. A Wait status means that WaitOnPermit must be called.
func (p *Profile) RunPermit(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	timeouts := map[string]time.Duration{}
	for _, plugin := range p.permit {
		var timeout time.Duration
		s := p.timed(state, plugin, "Permit", func() (s *fwk.Status) {
			s, timeout = plugin.Permit(ctx, state, pod, node)
			return s
		})
		switch {
		case s.IsSuccess():
		case s.IsRejected():
			return s.WithPlugin(plugin.Name())
		case s.IsWait():
			timeouts[plugin.Name()] = min(timeout, maxPermitWait)
		default:
			return fwk.AsStatus(fmt.Errorf("running Permit plugin %q: %w", plugin.Name(), s.AsError()))
		}
	}
	if len(timeouts) == 0 {
		return nil
	}
	p.waiting.add(newWaitingPod(pod, timeouts))
	return fwk.NewStatus(fwk.Wait, fmt.Sprintf("one or more plugins asked to wait and no plugin rejected pod %q", pod.Name))
}

// WaitOnPermit waits until the plugins that hold the pod have decided.
func (p *Profile) WaitOnPermit(ctx context.Context, pod *corev1.Pod) *fwk.Status {
	w := p.waiting.get(pod.UID)
	if w == nil {
		return nil
	}
	defer p.waiting.remove(pod.UID)
	select {
	case s := <-w.verdict:
		return s
	case <-ctx.Done():
		return fwk.AsStatus(context.Cause(ctx))
	}
}

// PreFlight asks the PreBind plugins what they will do, and notes it in state. busy says that one of them has something to do, or that
// a Permit plugin holds the pod: its binding may take long.
func (p *Profile) PreFlight(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) (busy bool, status *fwk.Status) {
	skip, parallel := sets.New[string](), sets.New[string]()
	for _, plugin := range p.preBind {
		var flight *fwk.PreBindPreFlightResult
		s := p.timed(state, plugin, "PreBindPreFlight", func() (s *fwk.Status) {
			flight, s = plugin.PreBindPreFlight(ctx, state, pod, node)
			return s
		})
		switch {
		case s.IsSkip():
			skip.Insert(plugin.Name())
		case !s.IsSuccess():
			return false, fwk.AsStatus(fmt.Errorf("running PreBindPreFlight plugin %q: %w", plugin.Name(), s.AsError()))
		case flight != nil && flight.AllowParallel:
			parallel.Insert(plugin.Name())
		}
	}
	state.SetSkipPreBindPlugins(skip)
	state.SetParallelPreBindPlugins(parallel)
	return skip.Len() < len(p.preBind) || p.waiting.get(pod.UID) != nil, nil
}

// RunPreBind does what must be done before the binding, after PreFlight: neighbours that allow it run at the same time.
func (p *Profile) RunPreBind(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	var group []fwk.PreBindPlugin
	for _, plugin := range p.preBind {
		switch {
		case state.GetSkipPreBindPlugins().Has(plugin.Name()):
			continue
		case state.GetParallelPreBindPlugins().Has(plugin.Name()):
			group = append(group, plugin)
			continue
		}
		for _, run := range [][]fwk.PreBindPlugin{group, {plugin}} {
			if s := p.preBindGroup(ctx, run, state, pod, node); !s.IsSuccess() {
				return s
			}
		}
		group = nil
	}
	return p.preBindGroup(ctx, group, state, pod, node)
}

func (p *Profile) preBindGroup(ctx context.Context, group []fwk.PreBindPlugin, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	results := make(chan *fwk.Status, len(group))
	for _, plugin := range group {
		run := func() {
			s := p.timed(state, plugin, "PreBind", func() *fwk.Status { return plugin.PreBind(ctx, state, pod, node) })
			if !s.IsSuccess() && !s.IsRejected() {
				s = fwk.AsStatus(fmt.Errorf("running PreBind plugin %q: %w", plugin.Name(), s.AsError()))
			}
			if s != nil {
				s.SetPlugin(plugin.Name())
			}
			results <- s
		}
		if len(group) == 1 {
			run()
			continue
		}
		go run()
	}
	var failed *fwk.Status
	for range group {
		if s := <-results; !s.IsSuccess() && failed == nil {
			failed = s
		}
	}
	return failed
}

// RunBind lets the first plugin that does not skip the pod bind it.
func (p *Profile) RunBind(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	for _, plugin := range p.bind {
		s := p.timed(state, plugin, "Bind", func() *fwk.Status { return plugin.Bind(ctx, state, pod, node) })
		if s.IsSkip() {
			continue
		}
		if !s.IsSuccess() && !s.IsRejected() {
			return fwk.AsStatus(fmt.Errorf("running Bind plugin %q: %w", plugin.Name(), s.AsError()))
		}
		return s
	}
	return fwk.AsStatus(errors.New("no bind plugin took the pod"))
}

// RunPostBind tells the plugins that the pod is bound.
func (p *Profile) RunPostBind(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) {
	for _, plugin := range p.postBind {
		p.timed(state, plugin, "PostBind", func() *fwk.Status { plugin.PostBind(ctx, state, pod, node); return nil })
	}
	klog.FromContext(ctx).V(5).Info("Bound", "pod", klog.KObj(pod), "node", node)
}
