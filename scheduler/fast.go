package scheduler

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/plugins/defaultpreemption"
	"keelson.dev/scheduler/plugins/nodeaffinity"
	"keelson.dev/scheduler/profile"
	"keelson.dev/scheduler/shape"
)

// decideOnColumns decides with the engine for the plugins that it stands for; the others are asked about the nodes that are left,
// through the framework's interfaces. It looks at all nodes: percentageOfNodesToScore, which trades the quality of a decision for its time,
// bounds only what is decided plainly (nodesToFind). ok is false when
// the plain path must decide: where plugins narrow the nodes down before they are looked at, where a device class stands for an
// extended resource, which is no property of the node, and where the plain path must say why nothing is left.
func (s *Scheduler) decideOnColumns(ctx context.Context, e *shape.Engine, prof *profile.Profile, state *profile.State, info *nodeinfo.PodInfo,
) (node string, f *failure, ok bool) {
	pod := info.GetPod()
	if s.snapshot.NumNodes() == 0 || len(s.extenders) > 0 || nodeaffinity.NamesNodes(pod) || s.devices.Backs(info.CalculateResource().Resource.GetScalarResources()) {
		return "", nil, false
	}
	all, _ := s.snapshot.List() // it never fails
	started := time.Now()
	pre, status, _ := prof.RunPreFilter(ctx, state, pod, all, e.Names())
	if !status.IsSuccess() || !pre.AllNodes() {
		return "", nil, false
	}
	s.ran("PreFilter", prof, nil, started)
	started = time.Now()
	e.Measure = state.ShouldRecordPluginMetrics()
	d, err := e.Filter(info)
	if err != nil {
		return "", nil, false
	}
	others, mine := s.queue.Nominator.NodesBefore(pod), s.queue.Nominator.NodeOf(pod.UID)
	if slot, known := s.snapshot.Table().Slot(mine); known && d.Refused[slot] == nil && !prof.Filters(state.GetSkipFilterPlugins()) {
		// Room was made for it there: no other node needs to be looked at if it is still there.
		if !slices.Contains(others, mine) || s.heedNominated(ctx, e, d, prof, pod, []string{mine}) && d.Refused[slot] == nil {
			s.ran("Filter", prof, nil, started)
			return mine, nil, true
		}
	}
	if !s.heedNominated(ctx, e, d, prof, pod, others) {
		return "", nil, false
	}
	if len(d.Feasible) > 0 && prof.Filters(state.GetSkipFilterPlugins()) {
		if !s.filterRest(ctx, e, d, prof, state, pod) {
			return "", nil, false
		}
	}
	s.ran("Filter", prof, nil, started)
	if len(d.Feasible) == 0 {
		byResources := !prof.Filters(state.GetSkipFilterPlugins()) && e.ByCapacity(d)
		f, ok = s.noneOnColumns(ctx, d, prof, state.Anew(), info, byResources)
		return "", f, ok
	}
	nodes := s.snapshot.Table().Nodes
	if slot, known := s.snapshot.Table().Slot(mine); known && d.Refused[slot] == nil {
		return mine, nil, true
	}
	if len(d.Feasible) == 1 {
		return nodes[d.Feasible[0]].Node().Name, nil, true
	}
	started = time.Now()
	scores := e.Score(d)
	if prof.Scores(e.Names(), state.GetSkipFilterPlugins()) {
		if status := s.scoreRest(ctx, e, d, prof, state, pod, scores); !status.IsSuccess() {
			return "", &failure{status: status, diagnosis: profile.NewDiagnosis(), message: status.Message()}, true
		}
	}
	s.ran("Score", prof, nil, started)
	feasible := d.Feasible
	best := pick(len(feasible), func(i int) int64 { return scores[feasible[i]] })
	return nodes[feasible[best]].Node().Name, nil, true
}

// heedNominated refuses those of the named nodes where there is room only if the pods do not come for which preemption has made it.
func (s *Scheduler) heedNominated(ctx context.Context, e *shape.Engine, d *shape.Decision, prof *profile.Profile, pod *corev1.Pod, names []string) bool {
	if len(names) == 0 || len(d.Feasible) == 0 {
		return true
	}
	all, _ := s.snapshot.List() // it never fails
	state := profile.NewState()
	if _, status, _ := prof.RunPreFilter(ctx, state, pod, all, sets.New[string]()); !status.IsSuccess() {
		return false
	}
	for _, name := range names {
		slot, ok := s.snapshot.Table().Slot(name)
		if !ok || d.Refused[slot] != nil {
			continue
		}
		status := prof.RunFilterPluginsWithNominatedPods(ctx, state, pod, s.snapshot.Table().Nodes[slot])
		if status.IsError() {
			return false
		}
		if !status.IsSuccess() {
			e.Refuse(d, slot, status)
		}
	}
	e.Narrow(d)
	return true
}

// filterRest asks the filters that have no columns. It returns false when they leave nothing: then the plain path says why, in the
// order of the plugins.
func (s *Scheduler) filterRest(ctx context.Context, e *shape.Engine, d *shape.Decision, prof *profile.Profile, state *profile.State, pod *corev1.Pod) bool {
	nodes := s.snapshot.Table().Nodes
	refusals := make([]*fwk.Status, len(d.Feasible))
	var failed atomic.Bool
	s.workers.Until(ctx, len(d.Feasible), func(i int) {
		refusals[i] = prof.RunFilterPlugins(ctx, state, pod, nodes[d.Feasible[i]])
		if refusals[i].IsError() {
			failed.Store(true)
		}
	}, "Filter")
	if failed.Load() || ctx.Err() != nil {
		return false
	}
	for i, slot := range d.Feasible {
		if refusals[i] != nil {
			e.Refuse(d, slot, refusals[i])
		}
	}
	e.Narrow(d)
	return len(d.Feasible) > 0
}

// scoreRest adds the scores that have no columns.
func (s *Scheduler) scoreRest(ctx context.Context, e *shape.Engine, d *shape.Decision, prof *profile.Profile, state *profile.State, pod *corev1.Pod, scores []int64) *fwk.Status {
	nodes := make([]fwk.NodeInfo, len(d.Feasible))
	for i, slot := range d.Feasible {
		nodes[i] = s.snapshot.Table().Nodes[slot]
	}
	started := time.Now()
	status := prof.RunPreScore(ctx, state, pod, nodes, e.Names())
	s.ran("PreScore", prof, status, started)
	if !status.IsSuccess() {
		return status
	}
	rest, status := prof.RunScorePlugins(ctx, state, pod, nodes)
	if !status.IsSuccess() {
		return status
	}
	for i, slot := range d.Feasible {
		scores[slot] += rest[i].TotalScore
	}
	return nil
}

// noneOnColumns says why no node is left, and lets the PostFilter plugins make room. These work on the state of the plain plugins,
// which is made only if some node has a pod that could go. byResources says that only sums matter to the pod.
func (s *Scheduler) noneOnColumns(ctx context.Context, d *shape.Decision, prof *profile.Profile, state *profile.State, info *nodeinfo.PodInfo, byResources bool) (*failure, bool) {
	pod, table := info.GetPod(), s.snapshot.Table()
	diagnosis := profile.NewDiagnosis()
	diagnosis.OnColumns(table, d.Refused)
	if diagnosis.Has(fwk.Unschedulable) && (prof.PostFilters() || hasVictims(d, table.Lowest, corev1helpers.PodPriority(pod))) {
		all, _ := s.snapshot.List() // it never fails
		if _, status, _ := prof.RunPreFilter(ctx, state, pod, all, sets.New[string]()); !status.IsSuccess() {
			return nil, false
		}
		if byResources {
			state.Write(defaultpreemption.ByResources, defaultpreemption.Marker{})
		}
	}
	return s.noneFits(ctx, prof, state, pod, diagnosis), true
}

func hasVictims(d *shape.Decision, lowest []int32, priority int32) bool {
	for slot, status := range d.Refused {
		if lowest[slot] < priority && status.Code() == fwk.Unschedulable {
			return true
		}
	}
	return false
}
