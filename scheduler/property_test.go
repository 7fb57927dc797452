package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/nodeinfo"
	"keelson.dev/scheduler/profile"
)

// world makes random clusters and keeps what should be in them.
type world struct {
	*harness
	*rand.Rand
	nodes    map[string]*corev1.Node
	bound    map[string]*corev1.Pod
	pending  map[string]*corev1.Pod
	serial   int
	handlers handlers
}

func newWorld(tb testing.TB, seed uint64) *world {
	h := newHarness(tb, nil)
	for _, ns := range []string{"default", "other"} {
		obj := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"team": ns}}}
		if err := h.informers.Core().V1().Namespaces().Informer().GetIndexer().Add(obj); err != nil {
			tb.Fatal(err)
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "a"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}}
	if err := h.informers.Core().V1().Services().Informer().GetIndexer().Add(service); err != nil {
		tb.Fatal(err)
	}
	return &world{
		harness: h, Rand: rand.New(rand.NewPCG(seed, 1)), handlers: handlers{h.Scheduler, tb.Context()},
		nodes: map[string]*corev1.Node{}, bound: map[string]*corev1.Pod{}, pending: map[string]*corev1.Pod{},
	}
}

func (w *world) chance(percent int) bool { return w.IntN(100) < percent }

func oneOf[T any](w *world, from ...T) T { return from[w.IntN(len(from))] }

func (w *world) node(name string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(oneOf(w, "1", "2", "4")), corev1.ResourceMemory: resource.MustParse(oneOf(w, "1Gi", "4Gi")),
			corev1.ResourcePods: resource.MustParse(oneOf(w, "2", "5", "110")),
		}},
	}
	if w.chance(80) {
		n.Labels[corev1.LabelTopologyZone] = oneOf(w, "1", "2", "3")
	}
	if w.chance(50) {
		n.Labels["disk"] = oneOf(w, "ssd", "hdd")
	}
	if w.chance(30) {
		n.Labels["size"] = oneOf(w, "1", "5", "9")
	}
	for range w.IntN(3) {
		if w.chance(50) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{
				Key: oneOf(w, "k", "l"), Value: oneOf(w, "v", ""),
				Effect: oneOf(w, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute),
			})
		}
	}
	n.Spec.Unschedulable = w.chance(10)
	if w.chance(30) {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse(oneOf(w, "1", "4"))
	}
	for _, image := range []string{"registry.test/a:1", "registry.test/b:latest"} {
		if w.chance(30) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: 500 << 20})
		}
	}
	return n
}

func (w *world) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": oneOf(w, "a", "b")}}
}

func (w *world) terms() []corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: w.selector(), TopologyKey: oneOf(w, corev1.LabelHostname, corev1.LabelTopologyZone, "disk")}
	switch w.IntN(4) {
	case 0:
		t.NamespaceSelector = &metav1.LabelSelector{}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "other"}}
	case 2:
		t.Namespaces = []string{"default"}
	}
	return []corev1.PodAffinityTerm{t}
}

func (w *world) weighted() []corev1.WeightedPodAffinityTerm {
	return []corev1.WeightedPodAffinityTerm{{Weight: int32(1 + w.IntN(100)), PodAffinityTerm: w.terms()[0]}}
}

func (w *world) nodeTerm() corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{oneOf(w,
		corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"1", "2"}},
		corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"hdd"}},
		corev1.NodeSelectorRequirement{Key: "size", Operator: corev1.NodeSelectorOpGt, Values: []string{"3"}},
		corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpExists},
	)}}
}

// pod makes a pod with a random selection of everything that the filters and scores look at.
func (w *world) pod() *corev1.Pod {
	w.serial++
	p := testPod(fmt.Sprint("p", w.serial))
	p.Namespace = oneOf(w, "default", "default", "other")
	requests := corev1.ResourceList{}
	if w.chance(70) {
		requests[corev1.ResourceCPU] = resource.MustParse(oneOf(w, "100m", "500m", "1", "3"))
	}
	if w.chance(50) {
		requests[corev1.ResourceMemory] = resource.MustParse(oneOf(w, "100Mi", "1Gi", "2Gi"))
	}
	if w.chance(10) {
		requests["example.com/gpu"] = resource.MustParse("1")
	}
	p.Spec.Containers[0].Resources.Requests = requests
	p.Spec.Containers[0].Image = oneOf(w, "pause", "registry.test/a:1", "registry.test/b")
	p.Labels = map[string]string{"app": oneOf(w, "a", "b", "c"), "version": oneOf(w, "1", "2")}
	if w.chance(20) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "r", UID: types.UID(oneOf(w, "r1", "r2")), Controller: new(true)}}
	}
	if w.chance(15) {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if w.chance(30) {
		p.Spec.Tolerations = []corev1.Toleration{oneOf(w,
			corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists},
			corev1.Toleration{Key: "l", Operator: corev1.TolerationOpEqual, Value: "v", Effect: corev1.TaintEffectNoSchedule},
			corev1.Toleration{Operator: corev1.TolerationOpExists})}
	}
	if w.chance(10) {
		hostPort(oneOf(w, "", "10.0.0.1"), 80, corev1.ProtocolTCP)(p)
	}
	w.affinity(p)
	w.spread(p)
	return p
}

func (w *world) affinity(p *corev1.Pod) {
	a := &corev1.Affinity{}
	p.Spec.Affinity = a
	if w.chance(20) {
		a.NodeAffinity = &corev1.NodeAffinity{}
		if w.chance(60) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{w.nodeTerm(), w.nodeTerm()}}
		}
		if w.chance(60) {
			a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{Weight: int32(1 + w.IntN(9)), Preference: w.nodeTerm()}}
		}
	}
	if w.chance(15) {
		a.PodAffinity = &corev1.PodAffinity{}
		if w.chance(60) {
			a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = w.terms()
		}
		if w.chance(60) {
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = w.weighted()
		}
	}
	if w.chance(15) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{}
		if w.chance(60) {
			a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = w.terms()
		}
		if w.chance(60) {
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = w.weighted()
		}
	}
}

func (w *world) spread(p *corev1.Pod) {
	for range w.IntN(3) {
		if !w.chance(30) {
			continue
		}
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(1 + w.IntN(2)), TopologyKey: oneOf(w, corev1.LabelHostname, corev1.LabelTopologyZone), LabelSelector: w.selector(),
			WhenUnsatisfiable: oneOf(w, corev1.DoNotSchedule, corev1.ScheduleAnyway),
		}
		if w.chance(30) {
			c.NodeTaintsPolicy = new(corev1.NodeInclusionPolicyHonor)
		}
		if w.chance(30) {
			c.NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore)
		}
		if w.chance(30) {
			c.MatchLabelKeys = []string{"version"}
		}
		if w.chance(20) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = new(int32(2))
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

// verdict is what there is to say about a pod: the nodes that take it, those of them that score best, or why there is none.
type verdict struct {
	feasible, best sets.Set[string]
	why            string
}

func (w *world) plainly(info *nodeinfo.PodInfo) verdict {
	w.tb.Helper()
	ctx, prof, state, pod := w.tb.Context(), w.profiles[corev1.DefaultSchedulerName], profile.NewState(), info.GetPod()
	nodes, d, err := w.feasibleNodes(ctx, prof, state, pod)
	if err != nil {
		w.tb.Fatal(err)
	}
	v := verdict{feasible: sets.New[string](), best: sets.New[string]()}
	if len(nodes) == 0 {
		v.why = d.Explain(w.snapshot.NumNodes())
		return v
	}
	if s := prof.RunPreScorePlugins(ctx, state, pod, nodes); !s.IsSuccess() {
		w.tb.Fatal(s)
	}
	scores, status := prof.RunScorePlugins(ctx, state, pod, nodes)
	if !status.IsSuccess() {
		w.tb.Fatal(status)
	}
	highest := slices.MaxFunc(scores, func(a, b fwk.NodePluginScores) int { return int(a.TotalScore - b.TotalScore) }).TotalScore
	for i, n := range nodes {
		v.feasible.Insert(n.Node().Name)
		if scores[i].TotalScore == highest {
			v.best.Insert(n.Node().Name)
		}
	}
	return v
}

func (w *world) onColumns(info *nodeinfo.PodInfo) verdict {
	w.tb.Helper()
	e, prof := w.engines[corev1.DefaultSchedulerName], w.profiles[corev1.DefaultSchedulerName]
	d, err := e.Filter(info)
	if err != nil || !w.heedNominated(w.tb.Context(), e, d, prof, info.GetPod(), w.queue.Nominator.NodesBefore(info.GetPod())) {
		w.tb.Fatal(err)
	}
	v := verdict{feasible: sets.New[string](), best: sets.New[string]()}
	if len(d.Feasible) == 0 {
		diagnosis := profile.NewDiagnosis()
		diagnosis.OnColumns(w.snapshot.Table(), d.Refused)
		v.why = diagnosis.Explain(w.snapshot.NumNodes())
		return v
	}
	scores := e.Score(d)
	highest := scores[slices.MaxFunc(d.Feasible, func(a, b int32) int { return int(scores[a] - scores[b]) })]
	for _, slot := range d.Feasible {
		name := w.snapshot.Table().Nodes[slot].Node().Name
		v.feasible.Insert(name)
		if scores[slot] == highest {
			v.best.Insert(name)
		}
	}
	return v
}

// change lets something happen to the cluster.
func (w *world) change() {
	names := slices.Sorted(maps.Keys(w.nodes))
	switch kind := w.IntN(10); {
	case kind < 2 || len(names) == 0:
		w.serial++
		n := w.node(fmt.Sprint("n", w.serial))
		w.nodes[n.Name] = n
		w.handlers.nodeAdded(n)
	case kind < 4:
		old := w.nodes[oneOf(w, names...)]
		n := w.node(old.Name)
		w.nodes[n.Name] = n
		w.handlers.nodeUpdated(old, n)
	case kind < 5 && len(names) > 2:
		n := w.nodes[oneOf(w, names...)]
		delete(w.nodes, n.Name)
		w.handlers.nodeDeleted(n)
	case kind < 8 && len(w.bound) > 0:
		w.remove(w.bound[oneOf(w, slices.Sorted(maps.Keys(w.bound))...)])
	case len(w.bound) > 0:
		old := w.bound[oneOf(w, slices.Sorted(maps.Keys(w.bound))...)]
		pod := old.DeepCopy()
		pod.Labels["app"] = oneOf(w, "a", "b", "c")
		w.bound[pod.Name] = pod
		w.store(pod)
		w.handlers.podUpdated(old, pod)
	}
}

func (w *world) store(pod *corev1.Pod) {
	if err := w.podInformer().Informer().GetIndexer().Update(pod); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) remove(pod *corev1.Pod) {
	delete(w.bound, pod.Name)
	delete(w.pending, pod.Name)
	if err := w.podInformer().Informer().GetIndexer().Delete(pod); err != nil {
		w.tb.Fatal(err)
	}
	w.handlers.podDeleted(pod)
}

// run binds a pod as if the API server had.
func (w *world) run(pod *corev1.Pod, node string) {
	pod.Spec.NodeName = node
	w.bound[pod.Name] = pod
	w.store(pod)
	w.handlers.bound(pod)
}

// TestColumnsAgree compares the decision on columns with that of the plain plugins, on clusters that change all the time.
func TestColumnsAgree(t *testing.T) {
	seeds, steps := 20, 400
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		w := newWorld(t, uint64(seed))
		w.profiles[corev1.DefaultSchedulerName].PercentageOfNodesToScore = 100
		nominee := ""
		for step := range steps {
			w.change()
			if nominee != "" && w.chance(50) {
				w.queue.Nominator.DeleteNominatedPodIfExists(testPod(nominee))
			}
			if w.chance(20) && len(w.nodes) > 0 {
				p := w.pod()
				p.Spec.Priority = new(int32(w.IntN(3)))
				nominee = p.Name
				w.queue.Nominator.AddNominatedPod(klog.Background(), info(t, p), &fwk.NominatingInfo{
					NominatingMode: fwk.ModeOverride, NominatedNodeName: oneOf(w, slices.Sorted(maps.Keys(w.nodes))...),
				})
			}
			pod := w.pod()
			pod.Spec.Priority = new(int32(w.IntN(3)))
			w.cache.UpdateSnapshot(w.snapshot)
			if w.snapshot.NumNodes() == 0 {
				continue
			}
			i := info(t, pod)
			plain, fast := w.plainly(i), w.onColumns(i)
			if len(w.queue.Nominator.NodesBefore(pod)) > 0 {
				// A node that refuses the pod in any case is not asked again with the nominated pods, which may word it differently.
				plain.why, fast.why = "", ""
			}
			if !plain.feasible.Equal(fast.feasible) || !plain.best.Equal(fast.best) || plain.why != fast.why {
				t.Fatalf("seed %d, step %d: plainly %+v, on columns %+v, pod %+v", seed, step, plain, fast, pod)
			}
			if names := sets.List(plain.feasible); len(names) > 0 {
				w.run(pod, oneOf(w, names...))
			}
		}
	}
}

// settle tries pending pods until the queue has none that it would try, and checks each binding.
func (w *world) settle() {
	ctx, prof := w.tb.Context(), w.profiles[corev1.DefaultSchedulerName]
	for {
		if active, backoff, _ := w.queue.Pending(); active+backoff == 0 {
			return
		}
		p := w.queue.Pop()
		w.cache.UpdateSnapshot(w.snapshot)
		var allowed verdict
		if w.snapshot.NumNodes() > 0 {
			allowed = w.plainly(p.PodInfo)
		}
		node, _, f := w.decide(ctx, prof, p.PodInfo)
		if f != nil {
			if allowed.feasible.Len() > 0 {
				w.tb.Fatalf("pod %s is refused (%s), but the filters let it onto %v", p.Pod().Name, f.message, allowed.feasible)
			}
			w.fail(ctx, p, f)
			continue
		}
		if !allowed.feasible.Has(node) {
			w.tb.Fatalf("pod %s is bound to %s, where filters refuse it: %s", p.Pod().Name, node, allowed.why)
		}
		pod := p.Pod().DeepCopy()
		delete(w.pending, pod.Name)
		w.checkRoom(pod, node)
		pod.Spec.NodeName = node
		if err := w.cache.Assume(p.WithPod(pod), node); err != nil {
			w.tb.Fatal(err)
		}
		w.run(pod, node)
		w.queue.Done(pod.UID)
	}
}

// checkRoom counts anew, without the scheduler's sums.
func (w *world) checkRoom(pod *corev1.Pod, node string) {
	used, count := corev1.ResourceList{}, int64(1)
	add := func(p *corev1.Pod) {
		for name, q := range p.Spec.Containers[0].Resources.Requests {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	add(pod)
	for _, other := range w.bound {
		if other.Spec.NodeName == node {
			add(other)
			count++
		}
	}
	allocatable := w.nodes[node].Status.Allocatable
	if pods := allocatable[corev1.ResourcePods]; count > pods.Value() {
		w.tb.Fatalf("node %s has %d pods of %s", node, count, pods.String())
	}
	for name := range pod.Spec.Containers[0].Resources.Requests {
		if sum, total := used[name], allocatable[name]; sum.Cmp(total) > 0 {
			w.tb.Fatalf("node %s is overcommitted: %s of %s %s", node, sum.String(), total.String(), name)
		}
	}
}

// TestRandomClusters makes clusters, lets things happen in them, and checks that no pod is on a node that refuses it, that no node
// is overcommitted, and that no pod waits that some node would take.
func TestRandomClusters(t *testing.T) {
	clusters := 10_000
	if testing.Short() {
		clusters = 500
	}
	never := corev1.PreemptNever
	var w *world
	for i := range clusters {
		if i%500 == 0 {
			w = newWorld(t, uint64(i))
		}
		for range 1 + w.IntN(4) {
			w.change()
		}
		for range 12 {
			if w.chance(50) {
				w.change()
			} else {
				pod := w.pod()
				pod.Spec.PreemptionPolicy = &never
				w.pending[pod.Name] = pod
				w.store(pod)
				w.handlers.podAdded(pod)
			}
			if w.chance(60) {
				w.settle()
			}
		}
		w.settle()
		w.cache.UpdateSnapshot(w.snapshot)
		for _, pod := range w.pending {
			if w.snapshot.NumNodes() == 0 {
				break
			}
			if v := w.plainly(info(t, pod)); v.feasible.Len() > 0 {
				t.Fatalf("cluster %d: pod %s waits, but the filters let it onto %v", i, pod.Name, sets.List(v.feasible))
			}
		}
		w.clear()
	}
}

func (w *world) clear() {
	for _, pods := range []map[string]*corev1.Pod{w.pending, w.bound} {
		for _, pod := range maps.Clone(pods) {
			w.remove(pod)
		}
	}
	for _, node := range maps.Clone(w.nodes) {
		delete(w.nodes, node.Name)
		w.handlers.nodeDeleted(node)
	}
}
