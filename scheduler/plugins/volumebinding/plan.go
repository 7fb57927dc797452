package volumebinding

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/storage/volume"
)

// plan is what must be done so that a pod's claims work on one node.
type plan struct {
	static      []binding
	provisioned []*corev1.PersistentVolumeClaim // as they will be, with the selected-node annotation
	// original claims of provisioned, in the same order.
	original []*corev1.PersistentVolumeClaim
	// room is where there is enough storage for provisioned, in the same order; nil: nobody says how much there is.
	room []*storagev1.CSIStorageCapacity
}

type binding struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// plans keeps the plan of each feasible node; filters of several nodes run at the same time.
type plans struct {
	mu     sync.Mutex
	byNode map[string]plan
}

func newPlans() *plans { return &plans{byNode: map[string]plan{}} }

func (p *plans) set(node string, plan plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byNode[node] = plan
}

func (p *plans) get(node string) plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byNode[node]
}

// listCandidates lists the volumes of the waiting claims' classes.
func (p *Plugin) listCandidates(s *cycleState) error {
	for _, claim := range s.waiting {
		s.candidates[volume.GetPersistentVolumeClaimClass(claim)] = nil
	}
	all, err := p.volumes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	for _, v := range all {
		class := volume.GetPersistentVolumeClass(v)
		if list, ok := s.candidates[class]; ok {
			s.candidates[class] = append(list, p.assumedVolumes.Over(v))
		}
	}
	return nil
}

// planFor decides what a node would need, or says why it will not do.
func (p *Plugin) planFor(s *cycleState, node *corev1.Node) (plan, []string, error) {
	for _, claim := range s.bound {
		v, err := p.volume(claim.Spec.VolumeName)
		if apierrors.IsNotFound(err) {
			return plan{}, []string{reasonMissing}, nil
		}
		if err != nil {
			return plan{}, nil, fmt.Errorf("read volume: %w", err)
		}
		if volume.CheckNodeAffinity(v, node.Labels) != nil {
			return plan{}, []string{reasonConflict}, nil //nolint:nilerr // the reason tells
		}
	}
	var out plan
	chosen := map[string]*corev1.PersistentVolume{}
	// The smallest claims choose first, so that large volumes are left for large claims.
	waiting := slices.SortedStableFunc(slices.Values(s.waiting), func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	for _, claim := range waiting {
		if selected, ok := claim.Annotations[volume.AnnSelectedNode]; ok {
			// The provisioner is at work on another node's behalf.
			if selected != node.Name {
				return plan{}, []string{reasonNone}, nil
			}
			out.provision(claim, node.Name, nil)
			continue
		}
		v, err := volume.FindMatchingVolume(claim, s.candidates[volume.GetPersistentVolumeClaimClass(claim)], node, chosen, false, true)
		if err != nil {
			return plan{}, nil, fmt.Errorf("match volume: %w", err)
		}
		if v != nil {
			chosen[v.Name] = v
			out.static = append(out.static, binding{claim, v})
			continue
		}
		room, reason, err := p.canProvision(claim, node)
		if reason != "" || err != nil {
			return plan{}, []string{reason}, err
		}
		out.provision(claim, node.Name, room)
	}
	return out, nil, nil
}

func (p *plan) provision(claim *corev1.PersistentVolumeClaim, node string, room *storagev1.CSIStorageCapacity) {
	p.room = append(p.room, room)
	wanted := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, volume.AnnSelectedNode, node)
	p.provisioned, p.original = append(p.provisioned, wanted), append(p.original, claim)
}

// canProvision says why a volume for the claim cannot be made for the node, or "" and where there is room for it, if that is known.
func (p *Plugin) canProvision(claim *corev1.PersistentVolumeClaim, node *corev1.Node) (*storagev1.CSIStorageCapacity, string, error) {
	class, err := p.classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return nil, "", fmt.Errorf("read storage class: %w", err)
	}
	if class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner || !allows(class, node) {
		return nil, reasonNone, nil
	}
	driver, err := p.drivers.Get(class.Provisioner)
	if apierrors.IsNotFound(err) || (err == nil && (driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity)) {
		return nil, "", nil // it does not say how much it has
	}
	if err != nil {
		return nil, "", fmt.Errorf("read CSI driver: %w", err)
	}
	capacities, err := p.capacities.List(labels.Everything())
	if err != nil {
		return nil, "", fmt.Errorf("list storage capacities: %w", err)
	}
	i := slices.IndexFunc(capacities, func(c *storagev1.CSIStorageCapacity) bool { return suffices(c, class.Name, claim, node) })
	if i < 0 {
		return nil, reasonSpace, nil
	}
	if capacities[i].Capacity == nil {
		return nil, "", nil
	}
	return capacities[i], "", nil
}

// allows checks the class's allowed topologies; their terms look like node selectors.
func allows(class *storagev1.StorageClass, node *corev1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(term corev1.TopologySelectorTerm) bool {
		selector := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
		for _, e := range term.MatchLabelExpressions {
			selector.NodeSelectorTerms[0].MatchExpressions = append(selector.NodeSelectorTerms[0].MatchExpressions,
				corev1.NodeSelectorRequirement{Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values})
		}
		if len(term.MatchLabelExpressions) == 0 {
			return false
		}
		ok, err := corev1helpers.MatchNodeSelectorTerms(node, selector)
		return ok && err == nil
	})
}

func suffices(c *storagev1.CSIStorageCapacity, class string, claim *corev1.PersistentVolumeClaim, node *corev1.Node) bool {
	limit := c.Capacity
	if c.MaximumVolumeSize != nil {
		limit = c.MaximumVolumeSize
	}
	request, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if c.StorageClassName != class || limit == nil || (ok && limit.Cmp(request) < 0) || c.NodeTopology == nil {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	return err == nil && selector.Matches(labels.Set(node.Labels))
}
