package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/profile"
	"keelson.dev/scheduler/queue"
)

// With more than minNodesToFind nodes, a scan stops when it has found enough of them; how many is a share of the nodes that falls
// with their number. These numbers are upstream's.
const (
	minNodesToFind    = 100
	minPercentageNeed = 5
)

var errNoNodes = errors.New("no nodes available to schedule pods")

// scheduleOne takes the next pod from the queue and tries it. It returns false when the queue is closed.
func (s *Scheduler) scheduleOne(ctx context.Context) bool {
	p := s.queue.Pop()
	if p == nil {
		return false
	}
	pod := p.Pod()
	prof, ok := s.profiles[pod.Spec.SchedulerName]
	if !ok || s.cache.IsAssumed(pod.UID) {
		s.queue.Done(pod.UID)
		return true
	}
	if pod.DeletionTimestamp != nil {
		s.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "skip schedule deleting pod: %v/%v", pod.Namespace, pod.Name)
		s.queue.Done(pod.UID)
		return true
	}
	p.Began = time.Now()
	s.deciding.Lock()
	s.cache.UpdateSnapshot(s.snapshot)
	node, state, failure := s.decide(ctx, prof, p.PodInfo)
	if failure != nil {
		s.note(pod, failure)
	}
	s.deciding.Unlock()
	s.metrics.Decided(time.Since(p.Began))
	if failure != nil {
		s.fail(ctx, p, failure)
		return true
	}
	s.place(ctx, prof, state, p, node)
	return true
}

// failure is why a pod got no node.
type failure struct {
	status     *fwk.Status
	diagnosis  *profile.Diagnosis
	nominating *fwk.NominatingInfo
	message    string
}

// decide chooses a node for the pod: on columns if that is possible, otherwise by asking each plugin about each node.
func (s *Scheduler) decide(ctx context.Context, prof *profile.Profile, info *nodeinfo.PodInfo) (string, *profile.State, *failure) {
	state := profile.NewState().Sampled()
	if e := s.engines[prof.ProfileName()]; e != nil {
		if node, f, ok := s.decideOnColumns(ctx, e, prof, state, info); ok {
			return node, state, f
		}
		state = state.Anew()
	}
	node, f := s.decidePlainly(ctx, prof, state, info.GetPod())
	return node, state, f
}

func (s *Scheduler) decidePlainly(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod) (string, *failure) {
	if s.snapshot.NumNodes() == 0 {
		d := profile.NewDiagnosis()
		d.Rejectors.Insert(queue.NoNodes)
		return "", &failure{
			status: fwk.NewStatus(fwk.UnschedulableAndUnresolvable).WithError(errNoNodes), diagnosis: d, message: errNoNodes.Error(),
			nominating: clearNomination(),
		}
	}
	feasible, diagnosis, err := s.feasibleNodes(ctx, prof, state, pod)
	if err != nil {
		return "", &failure{status: fwk.AsStatus(err), diagnosis: profile.NewDiagnosis(), message: err.Error()}
	}
	if len(feasible) == 0 {
		return "", s.noneFits(ctx, prof, state, pod, diagnosis)
	}
	if len(feasible) == 1 {
		return feasible[0].Node().Name, nil
	}
	node, err := s.best(ctx, prof, state, pod, feasible)
	if err != nil {
		return "", &failure{status: fwk.AsStatus(err), diagnosis: profile.NewDiagnosis(), message: err.Error()}
	}
	return node, nil
}

// noneFits lets the PostFilter plugins make room and says why the pod must wait.
func (s *Scheduler) noneFits(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod, d *profile.Diagnosis) *failure {
	f := &failure{status: fwk.NewStatus(fwk.Unschedulable), diagnosis: d}
	var result *fwk.PostFilterResult
	status := s.timedStatus("PostFilter", prof, func() (status *fwk.Status) {
		result, status = prof.RunPostFilter(ctx, state, pod, d)
		return status
	})
	d.PostFilterMessage = status.Message()
	if result != nil {
		f.nominating = result.NominatingInfo
	}
	f.message = d.Explain(s.snapshot.NumNodes())
	return f
}

func clearNomination() *fwk.NominatingInfo {
	return &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride}
}

// feasibleNodes returns nodes that every filter accepts; with many nodes, not all of them. Without any, the diagnosis says why.
func (s *Scheduler) feasibleNodes(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod) ([]fwk.NodeInfo, *profile.Diagnosis, error) {
	d := profile.NewDiagnosis()
	all, _ := s.snapshot.List() // it never fails
	started := time.Now()
	pre, status, limiters := prof.RunPreFilter(ctx, state, pod, all, sets.New[string]())
	s.ran("PreFilter", prof, status, started)
	if !status.IsSuccess() {
		if !status.IsRejected() {
			return nil, nil, status.AsError()
		}
		d.PreFilterMessage = status.Message()
		d.Absent = status
		d.Blame(status)
		d.Rejectors = d.Rejectors.Union(limiters)
		return nil, d, nil
	}
	nodes := all
	if !pre.AllNodes() {
		nodes = nil
		for name := range pre.NodeNames {
			if n, err := s.snapshot.Get(name); err == nil {
				nodes = append(nodes, n)
			}
		}
		d.Absent = fwk.NewStatus(fwk.UnschedulableAndUnresolvable,
			fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", sets.List(limiters)))
		d.Rejectors = d.Rejectors.Union(limiters)
	}
	if n := s.nominatedNode(pod); n != nil && (pre.AllNodes() || pre.NodeNames.Has(n.Node().Name)) {
		if prof.RunFilterPluginsWithNominatedPods(ctx, state, pod, n).IsSuccess() {
			if found, err := s.askExtenders(pod, []fwk.NodeInfo{n}, d); err == nil && len(found) > 0 {
				return found, d, nil
			}
		}
	}
	found, err := s.filter(ctx, prof, state, pod, nodes, d)
	if err != nil {
		return nil, nil, err
	}
	s.nextStart = (s.nextStart + len(found) + len(d.NodeStatus)) % len(all)
	found, err = s.askExtenders(pod, found, d)
	return found, d, err
}

// nominatedNode is the node where preemption has made room for the pod.
func (s *Scheduler) nominatedNode(pod *corev1.Pod) fwk.NodeInfo {
	name := s.queue.Nominator.NodeOf(pod.UID)
	if name == "" {
		return nil
	}
	n, err := s.snapshot.Get(name)
	if err != nil {
		return nil
	}
	return n
}

// filter asks the filters about each node, in parallel, until enough are found.
func (s *Scheduler) filter(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod, nodes []fwk.NodeInfo, d *profile.Diagnosis) ([]fwk.NodeInfo, error) {
	want := nodesToFind(prof.PercentageOfNodesToScore, len(nodes))
	found := make([]fwk.NodeInfo, want)
	var count atomic.Int32
	var mu sync.Mutex
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := time.Now()
	s.workers.Until(ctx, len(nodes), func(i int) {
		node := nodes[(s.nextStart+i)%len(nodes)]
		status := prof.RunFilterPluginsWithNominatedPods(ctx, state, pod, node)
		if status.IsSuccess() {
			n := int(count.Add(1))
			if n <= want {
				found[n-1] = node
			}
			if n >= want {
				cancel()
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if status.IsError() {
			if failed == nil && int(count.Load()) < want {
				failed = status.AsError()
				cancel()
			}
			return
		}
		d.NodeStatus[node.Node().Name] = status
		d.Blame(status)
	}, "Filter")
	s.ran("Filter", prof, fwk.AsStatus(failed), started)
	if failed != nil {
		return nil, failed
	}
	return found[:min(int(count.Load()), want)], nil
}

// nodesToFind returns how many feasible nodes are enough among n.
func nodesToFind(percentage int32, n int) int {
	if n < minNodesToFind || percentage >= 100 {
		return n
	}
	share := int(percentage)
	if share == 0 {
		share = max(50-n/125, minPercentageNeed)
	}
	return max(n*share/100, minNodesToFind)
}

// best scores the nodes and returns one of those with the highest score, at random.
func (s *Scheduler) best(ctx context.Context, prof *profile.Profile, state *profile.State, pod *corev1.Pod, nodes []fwk.NodeInfo) (string, error) {
	started := time.Now()
	status := prof.RunPreScorePlugins(ctx, state, pod, nodes)
	s.ran("PreScore", prof, status, started)
	if !status.IsSuccess() {
		return "", status.AsError()
	}
	started = time.Now()
	scores, status := prof.RunScorePlugins(ctx, state, pod, nodes)
	s.ran("Score", prof, status, started)
	if !status.IsSuccess() {
		return "", status.AsError()
	}
	s.scoreExtenders(ctx, pod, nodes, scores)
	best := pick(len(scores), func(i int) int64 { return scores[i].TotalScore })
	return scores[best].Name, nil
}

// pick returns one of the indices with the highest score. Each of n ties is kept with the chance 1/n, which makes all equally likely.
func pick(n int, score func(int) int64) int {
	best, ties, highest := 0, 1, score(0)
	for i := 1; i < n; i++ {
		switch s := score(i); {
		case s > highest:
			best, ties, highest = i, 1, s
		case s == highest:
			ties++
			if rand.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best
}
