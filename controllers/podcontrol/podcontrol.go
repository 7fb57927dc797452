// Package podcontrol creates and deletes pods on behalf of the controllers that own them, and tells about it in events.
package podcontrol

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/internal/expectation"
)

// Burst is the most pods that one reconcile creates or deletes: it bounds the goroutines and how long one owner keeps a worker.
const Burst = 500

// Control creates and deletes pods, and keeps in mind what the cache has to show of that.
type Control struct {
	Client   client.Client
	Recorder record.EventRecorder
	Pending  *expectation.Tracker
}

// Settled reports whether the cache shows all that was done for owner. Where a call left open whether it was carried out, it asks the
// API server.
func (c Control) Settled(ctx context.Context, owner metav1.Object, selector labels.Selector) (bool, error) {
	if c.Pending.Unsure(owner.GetUID()) {
		pods := &corev1.PodList{}
		if err := c.Client.List(ctx, pods, client.InNamespace(owner.GetNamespace()), client.MatchingLabelsSelector{Selector: selector}); err != nil {
			return false, fmt.Errorf("look up pods: %w", err)
		}
		var owned []metav1.Object
		for i := range pods.Items {
			if metav1.IsControlledBy(&pods.Items[i], owner) {
				owned = append(owned, &pods.Items[i])
			}
		}
		c.Pending.Found(owner.GetUID(), owned)
	}
	return c.Pending.Satisfied(owner.GetUID()), nil
}

// New returns the pod that a template asks for. Its name is generated from the owner's.
func New(template *corev1.PodTemplateSpec, owner client.Object, kind schema.GroupVersionKind) *corev1.Pod {
	prefix := owner.GetName() + "-"
	if len(validation.NameIsDNSSubdomain(prefix, true)) > 0 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    prefix,
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// Create creates the pod and fills it with the answer.
func (c Control) Create(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	if err := c.Client.Create(ctx, pod); err != nil {
		c.Pending.Failed(owner.GetUID(), err)
		// While the namespace goes away, nobody reads the event, and it could not be written.
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Recorder.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.Pending.Wrote(owner.GetUID(), pod)
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

// Delete deletes the pod of that uid. A pod that is gone already is no error.
func (c Control) Delete(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	err := c.Client.Delete(ctx, pod, client.Preconditions{UID: new(pod.UID)})
	gone := err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err)
	if gone || c.Pending.Failed(owner.GetUID(), err) {
		c.Pending.Deleted(owner.GetUID(), pod)
	}
	switch {
	case err == nil:
	case gone:
		return nil
	default:
		c.Recorder.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// SlowStart calls fn for 0…n-1 in parallel batches that double from one as long as all calls succeed. So a template that the API
// server rejects costs one request instead of n. It returns how many calls succeeded and the first error.
func SlowStart(n int, fn func(i int) error) (int, error) {
	done := 0
	for batch := 1; done < n; batch *= 2 {
		size := min(batch, n-done)
		if err := Parallel(size, func(i int) error { return fn(done + i) }); err != nil {
			return done + size - countErrors(err), firstOf(err)
		}
		done += size
	}
	return done, nil
}

// together is how many calls of Parallel are under way at once: a few owners that create or delete many pods must not need more streams
// than the API server allows on one connection (250), and more would only wait there.
const together = 50

// Parallel calls fn for 0…n-1, many at once, and returns all errors in an Errors, or nil. The bound of n is the caller's: Burst.
func Parallel(n int, fn func(i int) error) error {
	var (
		group errgroup.Group
		mu    sync.Mutex
		errs  Errors
	)
	group.SetLimit(together)
	for i := range n {
		group.Go(func() error {
			if err := fn(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = group.Wait() // errs has them all
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// Errors are the errors of parallel calls.
type Errors []error

func (e Errors) Error() string   { return e[0].Error() }
func (e Errors) Unwrap() []error { return e }

func countErrors(err error) int {
	if errs, ok := err.(Errors); ok { //nolint:errorlint // made by Parallel just now
		return len(errs)
	}
	return 1
}

func firstOf(err error) error {
	if errs, ok := err.(Errors); ok { //nolint:errorlint // made by Parallel just now
		return errs[0]
	}
	return err
}
