// Package resourcequota counts what a namespace uses of its ResourceQuotas. Admission adds as objects are created; this controller
// sets the whole sum whenever something goes away or the quota changes.
package resourcequota

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/metadata"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
	"keelson.dev/internal/podstate"
	"keelson.dev/internal/quota"
)

const (
	// recount is how often everything is counted again even if nothing seems to have changed.
	recount = 5 * time.Minute
	// underWay is how long the creation of an object can take after admission has added it to the sum: a request's time limit.
	underWay = time.Minute
)

// countPrefix begins the names that count objects of any kind: count/<resource>.<group>.
const countPrefix = "count/"

type reconciler struct {
	env      *env.Env
	quotas   lister.Of[*corev1.ResourceQuota]
	pods     lister.Of[*corev1.Pod]
	services lister.Of[*corev1.Service]
	claims   lister.Of[*corev1.PersistentVolumeClaim]
	classes  lister.Of[*resourcev1.DeviceClass]
	metadata metadata.Interface

	mu sync.Mutex
	// written is when a quota's sum was set last. What admission had added by then may not have been there to be counted.
	written map[types.NamespacedName]time.Time
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	quotas, err := env.Lister(e, &corev1.ResourceQuota{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	services, err := env.Lister(e, &corev1.Service{})
	if err != nil {
		return err
	}
	claims, err := env.Lister(e, &corev1.PersistentVolumeClaim{})
	if err != nil {
		return err
	}
	classes, err := env.Lister(e, &resourcev1.DeviceClass{})
	if err != nil {
		return err
	}
	r := &reconciler{
		env: e, quotas: quotas, pods: pods, services: services, claims: claims, classes: classes, metadata: e.Metadata,
		written: map[types.NamespacedName]time.Time{},
	}
	return e.Controller("resourcequota", workers, r.reconcile,
		env.On(&corev1.ResourceQuota{}, env.Changes[*corev1.ResourceQuota]{
			Created: func(q *corev1.ResourceQuota, queue env.Queue) { env.Add(queue, client.ObjectKeyFromObject(q)) },
			Updated: func(before, after *corev1.ResourceQuota, queue env.Queue) {
				if !quotav1.Equals(before.Spec.Hard, after.Spec.Hard) || !quotav1.Equals(after.Spec.Hard, after.Status.Hard) {
					env.Add(queue, client.ObjectKeyFromObject(after))
				}
			},
		}),
		env.On(&corev1.Pod{}, env.Changes[*corev1.Pod]{Updated: func(before, after *corev1.Pod, queue env.Queue) {
			if podstate.Terminal(before) != podstate.Terminal(after) || !equality.Semantic.DeepEqual(before.Status.Resources, after.Status.Resources) || before.Generation != after.Generation {
				r.wake(after.Namespace, queue)
			}
		}}),
		env.On(&corev1.Service{}, env.Changes[*corev1.Service]{Updated: func(before, after *corev1.Service, queue env.Queue) {
			if !equality.Semantic.DeepEqual(before.Spec, after.Spec) {
				r.wake(after.Namespace, queue)
			}
		}}),
		env.On(&corev1.PersistentVolumeClaim{}, env.Changes[*corev1.PersistentVolumeClaim]{Updated: func(before, after *corev1.PersistentVolumeClaim, queue env.Queue) {
			if !equality.Semantic.DeepEqual(before.Spec, after.Spec) || !equality.Semantic.DeepEqual(before.Status, after.Status) {
				r.wake(after.Namespace, queue)
			}
		}}),
		e.Creations(r.appeared),
		e.Deletions(r.wake))
}

func (r *reconciler) wake(namespace string, queue env.Queue) {
	for _, q := range r.quotas.In(namespace) {
		env.Add(queue, client.ObjectKeyFromObject(q))
	}
}

// appeared counts again if the sum was set while a new object of the namespace may have been on its way: admission had added it, and the
// count, which did not see it, took it off; or admission, which reads quotas from a cache, did not know the sum yet and added nothing.
func (r *reconciler) appeared(namespace string, queue env.Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.quotas.In(namespace) {
		key := client.ObjectKeyFromObject(q)
		if at, ok := r.written[key]; ok && r.env.Clock.Since(at) < underWay {
			env.Add(queue, key)
		}
	}
}

func (r *reconciler) wrote(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[key] = r.env.Clock.Now()
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	q, ok := r.quotas.Find(req.Namespace, req.Name)
	if !ok {
		r.mu.Lock()
		delete(r.written, req.NamespacedName)
		r.mu.Unlock()
		return ctrl.Result{}, nil
	}
	used, err := quotav1.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, r.registry(ctx, q.Spec.Hard), q.Spec.ScopeSelector)
	if err != nil && len(used) == 0 {
		return ctrl.Result{}, fmt.Errorf("calculate usage: %w", err)
	}
	for name, value := range q.Status.Used {
		if _, counted := used[name]; !counted && err != nil {
			used[name] = value // could not be counted just now
		}
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: quotav1.Mask(used, quotav1.ResourceNames(q.Spec.Hard))}
	if !equality.Semantic.DeepEqual(status, q.Status) {
		changed := q.DeepCopy()
		changed.Status = *status.DeepCopy()
		r.wrote(req.NamespacedName) // before the write: what appears meanwhile wakes as well
		if updateErr := r.env.Client.Status().Update(ctx, changed); updateErr != nil {
			return ctrl.Result{}, client.IgnoreNotFound(updateErr)
		}
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("calculate usage: %w", err)
	}
	return ctrl.Result{RequeueAfter: recount}, nil
}

// registry returns the evaluators of the built-in kinds and those that a quota's count/ names ask for besides.
func (r *reconciler) registry(ctx context.Context, hard corev1.ResourceList) quotav1.Registry {
	list := r.lister(ctx)
	evaluators := quota.ForController(list, quota.Devices{
		Classes: r.classes.All,
		Pod: func(namespace, name string) *corev1.Pod {
			pod, _ := r.pods.Find(namespace, name)
			return pod
		},
		Claims: func(namespace string) []*resourcev1.ResourceClaim {
			claims, _ := r.resourceClaims(ctx, namespace) // without them nothing is charged to the pod
			return claims
		},
	}).Evaluators()
	for name := range hard {
		text, counts := strings.CutPrefix(string(name), countPrefix)
		if !counts || covered(evaluators, name) {
			continue
		}
		resource, err := r.env.Manager.GetRESTMapper().ResourceFor(schema.ParseGroupResource(text).WithVersion(""))
		if err != nil {
			continue // nothing of that kind is served, so there is nothing to count
		}
		evaluators = append(evaluators, quota.ObjectCount(resource, list))
	}
	return generic.NewRegistry(evaluators)
}

func covered(evaluators []quotav1.Evaluator, name corev1.ResourceName) bool {
	for _, e := range evaluators {
		if len(e.MatchingResources([]corev1.ResourceName{name})) > 0 {
			return true
		}
	}
	return false
}

// lister reads what the shared cache holds there, and the metadata of other kinds, which is all that counting needs, from the server.
func (r *reconciler) lister(ctx context.Context) quota.Lister {
	return func(resource schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
		switch resource.GroupResource() {
		case schema.GroupResource{Resource: "pods"}:
			return objects(r.pods.In(namespace)), nil
		case schema.GroupResource{Resource: "services"}:
			return objects(r.services.In(namespace)), nil
		case schema.GroupResource{Resource: "persistentvolumeclaims"}:
			return objects(r.claims.In(namespace)), nil
		case schema.GroupResource{Resource: "resourcequotas"}:
			return objects(r.quotas.In(namespace)), nil
		case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}:
			claims, err := r.resourceClaims(ctx, namespace)
			return objects(claims), err
		}
		list, err := r.metadata.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		out := make([]runtime.Object, 0, len(list.Items))
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		return out, nil
	}
}

func objects[T runtime.Object](items []T) []runtime.Object {
	out := make([]runtime.Object, 0, len(items))
	for _, item := range items {
		out = append(out, item)
	}
	return out
}

// resourceClaims are read whole: their requests count, not only their number.
func (r *reconciler) resourceClaims(ctx context.Context, namespace string) ([]*resourcev1.ResourceClaim, error) {
	list, err := r.env.Clientset.ResourceV1().ResourceClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := make([]*resourcev1.ResourceClaim, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}
