package topology

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/cadvisor/lib/model"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
)

// machine has so many sockets, of so many NUMA nodes each, of so many cores each, of so many threads each, numbered as Linux does on x86:
// first one thread of each core, then the others. Each node has 8 GiB.
func machine(sockets, nodes, cores, threads int) Machine {
	var list []model.Node
	total := sockets * nodes * cores
	for n := range sockets * nodes {
		node := model.Node{Id: n, Memory: 8 << 30}
		for other := range sockets * nodes {
			d := uint64(32) // far sockets
			if other/nodes == n/nodes {
				d = 12
			}
			if other == n {
				d = 10
			}
			node.Distances = append(node.Distances, d)
		}
		for c := range cores {
			core := model.Core{Id: c, SocketID: n / nodes, UncoreCaches: []model.Cache{{Id: (n*cores + c) / 2}}} // two cores share one
			for t := range threads {
				core.Threads = append(core.Threads, t*total+n*cores+c)
			}
			node.Cores = append(node.Cores, core)
		}
		list = append(list, node)
	}
	return NewMachine(list)
}

func TestTake(t *testing.T) {
	for name, c := range map[string]struct {
		machine Machine
		taken   string
		n       int
		options cpuOptions
		want    string
	}{
		"one thread":                      {machine(1, 1, 4, 2), "", 1, cpuOptions{}, "0"},
		"a core":                          {machine(1, 1, 4, 2), "", 2, cpuOptions{}, "0,4"},
		"a core and a thread":             {machine(1, 1, 4, 2), "", 3, cpuOptions{}, "0-1,4"},
		"the rest of a core first":        {machine(1, 1, 4, 2), "1", 1, cpuOptions{}, "5"},
		"whole cores, not the rests":      {machine(1, 1, 4, 2), "0,1", 4, cpuOptions{}, "2-3,6-7"},
		"rests if there is nothing else":  {machine(1, 1, 2, 2), "0,1", 2, cpuOptions{}, "2-3"},
		"a whole socket":                  {machine(2, 1, 2, 2), "0", 4, cpuOptions{}, "2-3,6-7"},
		"the socket with less left":       {machine(2, 1, 4, 1), "4", 3, cpuOptions{}, "5-7"},
		"a node of a socket in use":       {machine(2, 2, 2, 1), "4", 2, cpuOptions{}, "6-7"},
		"a socket and of the next":        {machine(2, 1, 2, 2), "", 6, cpuOptions{}, "0-2,4-6"},
		"spread over two nodes":           {machine(2, 1, 4, 1), "", 6, cpuOptions{acrossNodes: true}, "0-2,4-6"},
		"no spread if one has enough":     {machine(2, 1, 4, 1), "", 4, cpuOptions{acrossNodes: true}, "0-3"},
		"spread, the odd one to the free": {machine(2, 1, 4, 1), "0", 5, cpuOptions{acrossNodes: true}, "1-2,4-6"},
		"spread in cores":                 {machine(2, 1, 4, 2), "", 10, cpuOptions{acrossNodes: true, fullCores: true}, "0-2,4-5,8-10,12-13"},
		"packed if it cannot be spread":   {machine(2, 1, 4, 1), "0-2", 5, cpuOptions{acrossNodes: true}, "3-7"},
		"a cache as a whole":              {machine(1, 1, 8, 1), "0", 2, cpuOptions{byCache: true}, "2-3"},
		"the smallest cache that fits":    {machine(1, 1, 8, 1), "0", 1, cpuOptions{byCache: true}, "1"},
		"a cache, and within one":         {machine(1, 1, 8, 1), "0", 3, cpuOptions{byCache: true}, "1-3"},
	} {
		t.Run(name, func(t *testing.T) {
			free := c.machine.all().Difference(set(t, c.taken))
			got, err := c.machine.take(free, c.n, c.options)
			if err != nil || got.String() != c.want {
				t.Errorf("%s, %v; want %s", got, err, c.want)
			}
		})
	}
	small := machine(1, 1, 2, 1)
	if got, err := small.take(small.all(), 3, cpuOptions{}); err == nil {
		t.Errorf("three of two CPUs: %s", got)
	}
}

func set(t *testing.T, list string) cpuset.CPUSet {
	t.Helper()
	out, err := cpuset.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Without preferences, with such that agree, with some that do not, and with a resource that cannot be had.
func TestMerge(t *testing.T) {
	four := machine(2, 2, 2, 1)
	preferred := func(masks ...Nodes) (out []Hint) {
		for _, m := range masks {
			out = append(out, Hint{m, true})
		}
		return out
	}
	best, restricted, single := kubeletconfig.BestEffortTopologyManagerPolicy, kubeletconfig.RestrictedTopologyManagerPolicy, kubeletconfig.SingleNumaNodeTopologyManagerPolicy
	for name, c := range map[string]struct {
		policy  string
		closest bool
		lists   [][]Hint
		want    Hint
		ok      bool
	}{
		"nothing wanted":              {restricted, false, nil, Hint{0b1111, true}, true},
		"nothing wanted, single":      {single, false, nil, Hint{0, true}, true},
		"both agree":                  {single, false, [][]Hint{preferred(1, 2), preferred(2)}, Hint{2, true}, true},
		"the lowest of several":       {restricted, false, [][]Hint{preferred(2, 4), preferred(4, 2)}, Hint{2, true}, true},
		"they do not agree":           {restricted, false, [][]Hint{preferred(1), preferred(2)}, Hint{0b1111, false}, false},
		"they do not agree, but":      {best, false, [][]Hint{preferred(1), preferred(2)}, Hint{0b1111, false}, true},
		"common part of sets":         {best, false, [][]Hint{preferred(1), {{0b11, false}}}, Hint{1, false}, true},
		"as wide as the neediest":     {best, false, [][]Hint{{{1, true}, {0b11, false}, {0b111, false}}, {{0b11, false}, {0b111, false}}}, Hint{0b11, false}, true},
		"two nodes are not one":       {single, false, [][]Hint{preferred(0b11)}, Hint{0, false}, false},
		"two nodes may be preferred":  {restricted, false, [][]Hint{preferred(0b11)}, Hint{0b11, true}, true},
		"cannot be had":               {restricted, false, [][]Hint{preferred(1), {}}, Hint{1, false}, false},
		"the lowest pair":             {restricted, false, [][]Hint{preferred(0b0110, 0b1100)}, Hint{0b0110, true}, true},
		"the pair within one socket":  {restricted, true, [][]Hint{preferred(0b0110, 0b1100)}, Hint{0b1100, true}, true},
		"closeness is not everything": {restricted, true, [][]Hint{preferred(0b0010, 0b1100)}, Hint{0b0010, true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := policy{c.policy, c.closest, &four}.merge(c.lists)
			if got != c.want || ok != c.ok {
				t.Errorf("%v, %v; want %v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

// The answer is that of trying every combination of hints, as the documentation of the topology manager describes it.
func TestMergeIsTheBestOfAllCombinations(t *testing.T) {
	four := machine(2, 2, 2, 1)
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		p := policy{[]string{"best-effort", "restricted", "single-numa-node"}[random.IntN(3)], random.IntN(2) == 0, &four}
		lists := make([][]Hint, 1+random.IntN(3))
		for i := range lists {
			n := 1 + random.IntN(4)
			owns := Nodes(1 + random.IntN(15))
			lists[i] = Hints(four.nodes(), func(on Nodes) bool { return on.count() >= n }, func(on Nodes) bool { return on.count() >= n && on&owns != 0 })
		}
		got, _ := p.merge(lists)
		want := bruteForce(p, lists)
		if got != want {
			t.Fatalf("%+v of %v: %v, want %v", p.name, lists, got, want)
		}
	}
}

func bruteForce(p policy, lists [][]Hint) Hint {
	all := Nodes(0b1111)
	var merged []Hint
	most := 0
	for _, list := range lists {
		least := 0
		for _, h := range list {
			if p.name != "single-numa-node" || h.Preferred && h.Nodes.count() == 1 {
				if least == 0 || h.Nodes.count() < least {
					least = h.Nodes.count()
				}
			}
		}
		most = max(most, least)
	}
	var try func(i int, common, first Nodes, preferred bool)
	try = func(i int, common, first Nodes, preferred bool) {
		if i == len(lists) {
			if common != 0 {
				merged = append(merged, Hint{common, preferred})
			}
			return
		}
		if len(lists[i]) == 0 && p.name != "single-numa-node" {
			try(i+1, common, first, false)
		}
		for _, h := range lists[i] {
			if p.name == "single-numa-node" && (!h.Preferred || h.Nodes.count() != 1) {
				continue
			}
			start := first
			if i == 0 {
				start = h.Nodes
			}
			try(i+1, common&h.Nodes, start, preferred && h.Preferred && h.Nodes == start)
		}
	}
	try(0, all, 0, true)
	best := Hint{Nodes: all}
	for i, h := range merged {
		wanted := most
		if h.Preferred {
			wanted = 0
		}
		if i == 0 || h.Preferred && !best.Preferred || h.Preferred == best.Preferred && p.order(wanted)(h.Nodes, best.Nodes) < 0 {
			best = h
		}
	}
	if p.name == "single-numa-node" && !best.Preferred {
		return Hint{}
	}
	if p.name == "single-numa-node" && best.Nodes == all {
		best.Nodes = 0
	}
	return best
}

// none is a pod without devices.
type noDevices struct{}

func (noDevices) Hints(*corev1.Container) [][]Hint                     { return nil }
func (noDevices) Take(context.Context, *corev1.Container, Nodes) error { return nil }
func (noDevices) Commit() error                                        { return nil }

// pod has containers that want "CPUs/memory in GiB"; a name with the prefix init: or sidecar: is of an init container.
func pod(name string, wants ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	for i, want := range wants {
		kind, amounts, ok := strings.Cut(want, ":")
		if !ok {
			kind, amounts = "", want
		}
		cpu, memory, _ := strings.Cut(amounts, "/")
		c := corev1.Container{Name: fmt.Sprintf("c%d", i)}
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory + "Gi")}
		c.Resources.Limits = c.Resources.Requests.DeepCopy()
		switch kind {
		case "":
			p.Spec.Containers = append(p.Spec.Containers, c)
		case "sidecar":
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			fallthrough
		default:
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
	}
	return p
}

func configuration(change func(*kubeletconfig.KubeletConfiguration)) *kubeletconfig.KubeletConfiguration {
	k := &kubeletconfig.KubeletConfiguration{CPUManagerPolicy: "static", TopologyManagerPolicy: "none"}
	if change != nil {
		change(k)
	}
	return k
}

func withMemory(k *kubeletconfig.KubeletConfiguration) {
	k.MemoryManagerPolicy = "Static"
	k.ReservedMemory = []kubeletconfig.MemoryReservation{{NumaNode: 0, Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}}
}

// newManager reserves one CPU and, if that counts, 1 GiB of node 0.
func newManager(t *testing.T, dir string, m Machine, k *kubeletconfig.KubeletConfiguration) (*Manager, error) {
	t.Helper()
	return New(Config{RootDir: dir, Machine: m, Kubelet: k, Changed: func() {}, Reservation: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi"),
	}})
}

// A story is pods that come, and "-name" for one that goes; the answer tells where their containers run, or why a pod may not.
func TestAdmit(t *testing.T) {
	for name, c := range map[string]struct {
		machine Machine
		change  func(*kubeletconfig.KubeletConfiguration)
		pods    []*corev1.Pod
		want    []string
		shared  string
	}{
		"whole CPUs are exclusive, others share": {machine(1, 1, 4, 1), nil, []*corev1.Pod{pod("a", "2/1", "1500m/1")}, []string{"c0=1-2 c1=0,3"}, "0,3"},
		"no more than there are": {
			machine(1, 1, 4, 1), nil,
			[]*corev1.Pod{pod("a", "4/1")},
			[]string{"UnexpectedAdmissionError: Allocate failed due to not enough cpus available to satisfy request: requested=4, available=3, which is unexpected"},
			"0-3",
		},
		"what goes is free again":             {machine(1, 1, 4, 1), nil, []*corev1.Pod{pod("a", "3/1"), pod("-a"), pod("b", "3/1")}, []string{"c0=1-3", "", "c0=1-3"}, "0"},
		"init containers leave theirs":        {machine(1, 1, 4, 1), nil, []*corev1.Pod{pod("a", "init:2/1", "sidecar:1/1", "2/1")}, []string{"c0=1-2 c1=1 c2=2-3"}, "0"},
		"reserved CPUs are named":             {machine(1, 1, 4, 1), func(k *kubeletconfig.KubeletConfiguration) { k.ReservedSystemCPUs = "2" }, []*corev1.Pod{pod("a", "2/1")}, []string{"c0=0-1"}, "2-3"},
		"strictly reserved is not shared":     {machine(1, 1, 4, 1), option("strict-cpu-reservation"), []*corev1.Pod{pod("a", "2/1", "500m/1")}, []string{"c0=1-2 c1=3"}, "3"},
		"whole cores":                         {machine(1, 1, 4, 2), option("full-pcpus-only"), []*corev1.Pod{pod("a", "2/1"), pod("b", "4/1")}, []string{"c0=1,5", "c0=2-3,6-7"}, "0,4"},
		"no part of a core":                   {machine(1, 1, 4, 2), option("full-pcpus-only"), []*corev1.Pod{pod("a", "3/1")}, []string{"SMTAlignmentError: SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"}, "0-7"},
		"nor one that is partly reserved":     {machine(1, 1, 4, 2), option("full-pcpus-only"), []*corev1.Pod{pod("a", "8/1")}, []string{"SMTAlignmentError: SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2"}, "0-7"},
		"without a policy, all over":          {machine(2, 1, 4, 1), nil, []*corev1.Pod{pod("a", "6/1")}, []string{"c0=1-2,4-7"}, "0,3"},
		"one node for each container":         {machine(2, 1, 4, 1), single("container"), []*corev1.Pod{pod("a", "3/1", "4/1")}, []string{"c0=1-3 c1=4-7"}, "0"},
		"not one node for the pod":            {machine(2, 1, 4, 1), single("pod"), []*corev1.Pod{pod("a", "3/1", "4/1")}, []string{"TopologyAffinityError: Resources cannot be allocated with Topology locality"}, "0-7"},
		"one node for the pod":                {machine(2, 1, 4, 1), single("pod"), []*corev1.Pod{pod("a", "init:4/1", "2/1", "2/1")}, []string{"c0=4-7 c1=4-5 c2=6-7"}, "0-3"},
		"too much for a node, after another":  {machine(2, 1, 4, 1), single("container"), []*corev1.Pod{pod("a", "2/1"), pod("b", "2/1", "3/1")}, []string{"c0=1-2", "TopologyAffinityError: Resources cannot be allocated with Topology locality"}, "0,3-7"},
		"memory and CPUs on one node":         {machine(2, 1, 4, 1), both(single("container"), withMemory), []*corev1.Pod{pod("a", "1/6"), pod("b", "1/6"), pod("c", "1/3")}, []string{"c0=1@0", "c0=4@1", "UnexpectedAdmissionError: Allocate failed due to [memorymanager] failed to find NUMA nodes to extend the current topology hint, which is unexpected"}, "0,2-3,5-7"},
		"memory of two nodes":                 {machine(2, 1, 4, 1), both(nil, withMemory), []*corev1.Pod{pod("a", "1/10"), pod("b", "1/6")}, []string{"c0=1@0-1", "UnexpectedAdmissionError: Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected"}, "0,2-7"},
		"memory of those on the same nodes":   {machine(2, 1, 4, 1), both(nil, withMemory), []*corev1.Pod{pod("a", "1/10"), pod("b", "1/5")}, []string{"c0=1@0-1", "c0=2@0-1"}, "0,3-7"},
		"memory of init containers":           {machine(2, 1, 4, 1), both(nil, withMemory), []*corev1.Pod{pod("a", "init:1/7", "1/7"), pod("b", "1/8")}, []string{"c0=1@0 c1=1@0", "c0=2@1"}, "0,3-7"},
		"best effort takes what there is":     {machine(2, 1, 4, 1), func(k *kubeletconfig.KubeletConfiguration) { k.TopologyManagerPolicy = "best-effort" }, []*corev1.Pod{pod("a", "2/1"), pod("b", "2/1"), pod("c", "3/1")}, []string{"c0=1-2", "c0=4-5", "c0=3,6-7"}, "0"},
		"fractions have no part in alignment": {machine(2, 1, 4, 1), single("container"), []*corev1.Pod{pod("a", "6500m/1")}, []string{"c0=0-7"}, "0-7"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m, err := newManager(t, dir, c.machine, configuration(c.change))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range c.pods {
				got = append(got, play(t, m, p))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if shared := m.shared().String(); shared != c.shared {
				t.Errorf("%s is shared, not %s", shared, c.shared)
			}
			again, err := newManager(t, dir, c.machine, configuration(c.change))
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range c.pods { // a pod keeps what it has when the agent starts again
				if place := play(t, again, p); !strings.HasPrefix(p.Name, "-") && !strings.Contains(got[i], "Error") && i == len(c.pods)-1 && place != got[i] {
					t.Errorf("after a restart %s has %s", p.Name, place)
				}
			}
		})
	}
}

func option(name string) func(*kubeletconfig.KubeletConfiguration) {
	return func(k *kubeletconfig.KubeletConfiguration) {
		k.CPUManagerPolicyOptions = map[string]string{name: "true"}
	}
}

func single(scope string) func(*kubeletconfig.KubeletConfiguration) {
	return func(k *kubeletconfig.KubeletConfiguration) {
		k.TopologyManagerPolicy, k.TopologyManagerScope = "single-numa-node", scope
	}
}

func both(changes ...func(*kubeletconfig.KubeletConfiguration)) func(*kubeletconfig.KubeletConfiguration) {
	return func(k *kubeletconfig.KubeletConfiguration) {
		for _, change := range changes {
			if change != nil {
				change(k)
			}
		}
	}
}

// play has a pod come, or go, and tells where its containers run.
func play(t *testing.T, m *Manager, p *corev1.Pod) string {
	t.Helper()
	if name, gone := strings.CutPrefix(p.Name, "-"); gone {
		if err := m.Release(types.UID(name)); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if r := m.Admit(t.Context(), p, noDevices{}); r != nil {
		return r.Reason + ": " + r.Message
	}
	var places []string
	for _, c := range containers(p) {
		cpus, nodes, _ := m.Place(p.UID, c.Name)
		if nodes != "" {
			nodes = "@" + nodes
		}
		places = append(places, c.Name+"="+cpus+nodes)
	}
	return strings.Join(places, " ")
}

// Whatever comes and goes, no CPU has two owners, none is lost, and no memory is promised twice.
func TestNothingIsGivenTwice(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 12 {
		mach := machine(1+random.IntN(2), 1+random.IntN(2), 2+random.IntN(3), 1+random.IntN(2))
		k := configuration(withMemory)
		k.TopologyManagerPolicy = []string{"none", "best-effort", "restricted", "single-numa-node"}[random.IntN(4)]
		k.TopologyManagerScope = []string{"container", "pod"}[random.IntN(2)]
		k.CPUManagerPolicyOptions = map[string]string{}
		for _, name := range []string{"full-pcpus-only", "strict-cpu-reservation", "distribute-cpus-across-numa"} {
			k.CPUManagerPolicyOptions[name] = fmt.Sprint(random.IntN(2) == 0)
		}
		dir := t.TempDir()
		m, err := newManager(t, dir, mach, k)
		if err != nil {
			t.Fatal(err)
		}
		alive := map[string]*corev1.Pod{}
		for step := range 60 {
			name := fmt.Sprint(random.IntN(6))
			if alive[name] != nil {
				play(t, m, pod("-"+name))
				delete(alive, name)
			} else {
				var wants []string
				for range 1 + random.IntN(3) {
					wants = append(wants, fmt.Sprintf("%s%d/%d", []string{"", "", "init:", "sidecar:"}[random.IntN(4)], 1+random.IntN(3), 1+random.IntN(5)))
				}
				if p := pod(name, append(wants, "1/1")...); !strings.Contains(play(t, m, p), "Error") {
					alive[name] = p
				}
			}
			if step%20 == 19 { // kill -9
				if m, err = newManager(t, dir, mach, k); err != nil {
					t.Fatal(err)
				}
			}
			check(t, m, alive)
			if t.Failed() {
				t.Fatalf("round %d step %d: %+v", round, step, k)
			}
		}
		for name := range alive {
			play(t, m, pod("-"+name))
		}
		if !m.exclusive().IsEmpty() || len(m.memory.held) > 0 {
			t.Errorf("left behind: %v, %v", m.cpus, m.memory.held)
		}
	}
}

func check(t *testing.T, m *Manager, alive map[string]*corev1.Pod) {
	t.Helper()
	owner := map[int]string{}
	for uid, own := range m.cpus {
		p := alive[string(uid)]
		if p == nil {
			t.Errorf("CPUs of %s, which is not there", uid)
			continue
		}
		ends := (&trial{m: m, pod: p}).ends
		for _, c := range containers(p) {
			cpus := own[c.Name]
			if q := c.Resources.Requests.Cpu(); int(q.Value()) != cpus.Size() {
				t.Errorf("%s/%s has %s for %s", uid, c.Name, cpus, q)
			}
			if !cpus.Intersection(m.reserved).IsEmpty() || !cpus.Intersection(m.shared()).IsEmpty() {
				t.Errorf("%s is reserved or shared", cpus)
			}
			if m.options.fullCores && len(m.cfg.Machine.groups(cpus, byCore))*m.cfg.Machine.threads() != cpus.Size() {
				t.Errorf("%s are not whole cores", cpus)
			}
			if nodes := m.cfg.Machine.groups(cpus, byNode); m.topology.name == "single-numa-node" && len(nodes) > 1 {
				t.Errorf("%s are of several nodes", cpus)
			}
			for _, cpu := range cpus.List() {
				if other, taken := owner[cpu]; taken && !ends(c) {
					t.Errorf("CPU %d belongs to %s and %s/%s", cpu, other, uid, c.Name)
				}
				if !ends(c) {
					owner[cpu] = string(uid) + "/" + c.Name
				}
			}
		}
	}
	sums := map[Nodes]int64{}
	for _, own := range m.memory.held {
		for _, blocks := range own {
			for _, b := range blocks {
				sums[nodesOf(b.Nodes)] += b.Size
			}
		}
	}
	for a, sum := range sums {
		if most := m.memory.allocatable(a, corev1.ResourceMemory); sum > most {
			t.Errorf("nodes %v give %d of %d bytes", a.IDs(), sum, most)
		}
		for b := range sums {
			if a != b && a&b != 0 {
				t.Errorf("nodes %v and %v overlap", a.IDs(), b.IDs())
			}
		}
	}
}

func TestConfiguration(t *testing.T) {
	mach := machine(2, 1, 2, 1)
	for name, change := range map[string]func(*kubeletconfig.KubeletConfiguration){
		"unknown CPU policy":          func(k *kubeletconfig.KubeletConfiguration) { k.CPUManagerPolicy = "dynamic" },
		"unknown option":              option("fast"),
		"alpha option":                option("align-by-socket"),
		"unknown topology policy":     func(k *kubeletconfig.KubeletConfiguration) { k.TopologyManagerPolicy = "all" },
		"unknown scope":               func(k *kubeletconfig.KubeletConfiguration) { k.TopologyManagerScope = "node" },
		"reserved CPUs are not there": func(k *kubeletconfig.KubeletConfiguration) { k.ReservedSystemCPUs = "9" },
		"memory without reservation":  func(k *kubeletconfig.KubeletConfiguration) { k.MemoryManagerPolicy = "Static" },
		"another reservation": func(k *kubeletconfig.KubeletConfiguration) {
			withMemory(k)
			k.ReservedMemory[0].Limits[corev1.ResourceMemory] = resource.MustParse("2Gi")
		},
		"reservation on no node": func(k *kubeletconfig.KubeletConfiguration) { withMemory(k); k.ReservedMemory[0].NumaNode = 7 },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newManager(t, t.TempDir(), mach, configuration(change)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// A state that does not go with the configuration is refused: running containers would be on CPUs that count as free.
func TestStateOfAnotherPolicy(t *testing.T) {
	dir, mach := t.TempDir(), machine(1, 1, 4, 1)
	m, err := newManager(t, dir, mach, configuration(nil))
	if err != nil {
		t.Fatal(err)
	}
	play(t, m, pod("a", "2/1"))
	for name, change := range map[string]func(*kubeletconfig.KubeletConfiguration){
		"none":                  func(k *kubeletconfig.KubeletConfiguration) { k.CPUManagerPolicy = "none" },
		"reserves what is used": func(k *kubeletconfig.KubeletConfiguration) { k.ReservedSystemCPUs = "1" },
	} {
		if _, err := newManager(t, dir, mach, configuration(change)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "cpu_manager_state"))
	if want := `{"policyName":"static","defaultCpuSet":"0,3","entries":{"a":{"c0":"1-2"}}}`; err != nil || string(data) != want {
		t.Errorf("state %s, %v", data, err)
	}
}
