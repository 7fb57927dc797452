package hollow

import (
	"context"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// watch hands the fleet's nodes and their pods on until ctx ends: one watch each for the whole fleet.
func (f *fleet) watch(ctx context.Context) {
	client := f.client.CoreV1().RESTClient()
	ours := labels.SelectorFromSet(labels.Set{FleetLabel: f.cfg.Fleet})
	nodes := cache.NewFilteredListWatchFromClient(client, "nodes", "", func(o *metav1.ListOptions) { o.LabelSelector = ours.String() })
	assigned := fields.OneTermNotEqualSelector("spec.nodeName", "")
	pods := cache.NewFilteredListWatchFromClient(client, "pods", "", func(o *metav1.ListOptions) { o.FieldSelector = assigned.String() })
	var wg sync.WaitGroup
	wg.Go(func() {
		reflect(ctx, f, nodes, &corev1.Node{}, "nodes", &nodeStore{fleet: f, waiting: maps.Clone(f.nodes)})
	})
	wg.Go(func() {
		reflect(ctx, f, pods, &corev1.Pod{}, "pods", &podStore{ctx: ctx, fleet: f, on: map[types.UID]*node{}})
	})
	wg.Wait()
}

func reflect(ctx context.Context, f *fleet, lw *cache.ListWatch, example any, name string, store cache.ReflectorStore) {
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, f.client), example, store, cache.ReflectorOptions{Name: component + "/" + name})
	r.RunWithContext(ctx)
}

// nodeStore hands nodes on and keeps none. A reflector calls it from one goroutine.
type nodeStore struct {
	fleet   *fleet
	waiting map[string]*node // not Ready yet, until all have been
}

func (s *nodeStore) Add(obj any) error {
	seen, ok := obj.(*corev1.Node)
	if n := s.fleet.nodes[seen.Name]; ok && n != nil {
		hadRange := n.status.Node().Spec.PodCIDR != ""
		seen.ManagedFields = nil
		n.status.Seen(seen)
		if !hadRange && seen.Spec.PodCIDR != "" {
			n.status.Nudge() // its network is ready now
		}
		s.countReady(seen)
	}
	return nil
}

func (s *nodeStore) countReady(seen *corev1.Node) {
	if s.waiting[seen.Name] == nil || !slices.ContainsFunc(seen.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return
	}
	delete(s.waiting, seen.Name)
	if len(s.waiting) == 0 && s.fleet.cfg.Ready != nil {
		s.fleet.cfg.Ready()
	}
}

func (s *nodeStore) Update(obj any) error { return s.Add(obj) }
func (s *nodeStore) Delete(any) error     { return nil }
func (s *nodeStore) Resync() error        { return nil }

func (s *nodeStore) Replace(list []any, _ string) error {
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
	}
	return nil
}

// podStore hands pods on to their nodes and remembers which node has which. A reflector calls it from one goroutine.
type podStore struct {
	ctx   context.Context //nolint:containedctx // the interface of stores has none
	fleet *fleet
	on    map[types.UID]*node
}

func (s *podStore) Add(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	if n := s.fleet.nodes[pod.Spec.NodeName]; n != nil {
		s.on[pod.UID] = n
		n.changed(s.ctx, bare(pod))
	}
	return nil
}
func (s *podStore) Update(obj any) error { return s.Add(obj) }
func (s *podStore) Resync() error        { return nil }

func (s *podStore) Delete(obj any) error {
	if pod, ok := obj.(*corev1.Pod); ok {
		s.gone(pod.UID)
	}
	return nil
}

func (s *podStore) gone(uid types.UID) {
	if n := s.on[uid]; n != nil {
		delete(s.on, uid)
		n.deleted(uid)
	}
}

func (s *podStore) Replace(list []any, _ string) error {
	here := map[types.UID]bool{}
	for _, obj := range list {
		if pod, ok := obj.(*corev1.Pod); ok {
			here[pod.UID] = true
		}
	}
	for uid := range s.on {
		if !here[uid] {
			s.gone(uid)
		}
	}
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
	}
	return nil
}
