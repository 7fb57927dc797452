// Package endpoints keeps the older Endpoints objects of Services, which some clients and tools still read.
package endpoints

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/endpointslice"
	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Reconciler keeps the Endpoints of Services with a selector.
type Reconciler struct {
	Client    client.Client
	Services  lister.Of[*corev1.Service]
	Pods      lister.Of[*corev1.Pod]
	Endpoints lister.Of[*corev1.Endpoints]
	Recorder  record.EventRecorder
	triggers  *util.TriggerTimeTracker
}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	services, err := env.Lister(e, &corev1.Service{})
	if err != nil {
		return err
	}
	pods, err := env.Lister(e, &corev1.Pod{})
	if err != nil {
		return err
	}
	endpoints, err := env.Lister(e, &corev1.Endpoints{})
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: e.Client, Services: services, Pods: pods, Endpoints: endpoints,
		Recorder: e.Recorder("endpoint-controller"), triggers: util.NewTriggerTimeTracker(),
	}
	return e.Controller("endpoint", workers, r.Reconcile,
		env.For(&corev1.Service{}),
		endpointslice.PodChanges(services),
		env.For(&corev1.Endpoints{}))
}

// Reconcile brings the Endpoints of one Service up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	svc, ok := r.Services.Find(req.Namespace, req.Name)
	current, exists := r.Endpoints.Find(req.Namespace, req.Name)
	if !ok {
		r.triggers.DeleteService(req.Namespace, req.Name)
		// Those that we made go with their Service; those of others, such as a leader election of old, are none of our business.
		if exists && current.Labels[managedByLabel] == managedBy {
			if err := r.Client.Delete(ctx, current.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
				return ctrl.Result{}, fmt.Errorf("delete endpoints: %w", err)
			}
		}
		return ctrl.Result{}, nil
	}
	if svc.Spec.Selector == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return ctrl.Result{}, nil
	}
	pods := endpointslice.Selected(r.Pods, svc)
	changed := r.triggers.ComputeEndpointLastChangeTriggerTime(svc.Namespace, svc, pods)
	if !exists {
		current = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	}
	wanted := desired(svc, pods, current, changed)
	if exists && unchanged(current, wanted) {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.write(ctx, wanted, exists)
}

func (r *Reconciler) write(ctx context.Context, wanted *corev1.Endpoints, exists bool) error {
	var err error
	if exists {
		err = r.Client.Update(ctx, wanted)
	} else {
		err = r.Client.Create(ctx, wanted)
	}
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return apierrors.NewConflict(corev1.Resource("endpoints"), wanted.Name, err)
	case exists:
		r.Recorder.Eventf(wanted, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", wanted.Namespace, wanted.Name, err)
	default:
		r.Recorder.Eventf(wanted, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %s/%s: %v", wanted.Namespace, wanted.Name, err)
	}
	return fmt.Errorf("write endpoints: %w", err)
}

// desired returns the Endpoints that the pods make. current is only read.
func desired(svc *corev1.Service, pods []*corev1.Pod, current *corev1.Endpoints, changed time.Time) *corev1.Endpoints {
	wanted := current.DeepCopy()
	wanted.Subsets = subsets(svc, pods)
	truncated := truncate(wanted.Subsets)
	wanted.Labels = maps.Clone(svc.Labels)
	if wanted.Labels == nil {
		wanted.Labels = map[string]string{}
	}
	wanted.Labels[managedByLabel] = managedBy
	delete(wanted.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		wanted.Labels[corev1.IsHeadlessService] = ""
	}
	annotations := maps.Clone(wanted.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	delete(annotations, corev1.EndpointsOverCapacity)
	if truncated {
		annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	if changed.IsZero() {
		delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		annotations[corev1.EndpointsLastChangeTriggerTime] = changed.UTC().Format(time.RFC3339Nano)
	}
	wanted.Annotations = annotations
	return wanted
}

// unchanged compares what readers see; the time of the last trigger alone is no reason to write.
func unchanged(a, b *corev1.Endpoints) bool {
	return equality.Semantic.DeepEqual(withoutVersions(a.Subsets), withoutVersions(b.Subsets)) && maps.Equal(a.Labels, b.Labels) &&
		a.Annotations[corev1.EndpointsOverCapacity] == b.Annotations[corev1.EndpointsOverCapacity]
}
