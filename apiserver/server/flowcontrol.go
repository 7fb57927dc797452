package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	flowbootstrap "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// flowPause keeps two servers of different versions from undoing each other's changes as fast as they can.
const flowPause = 5 * time.Second

// newFlowControl returns what keeps upstream's flow schemas and priority levels, until ctx ends: the mandatory ones as they are, the suggested
// ones unless their owner has switched that off by the annotation apf.kubernetes.io/autoupdate-spec, or has changed them before
// there was one. It asks for its informers at once, since they are started before any hook.
func (c *config) newFlowControl() func(ctx context.Context) error {
	flow, client := c.informers.Flowcontrol().V1(), c.client.FlowcontrolV1()
	levels := flowKind[*flowcontrolv1.PriorityLevelConfiguration]{
		mandatory: flowbootstrap.MandatoryPriorityLevelConfigurations, suggested: flowbootstrap.SuggestedPriorityLevelConfigurations,
		client: client.PriorityLevelConfigurations(), list: flow.PriorityLevelConfigurations().Lister().List,
		copyOf: (*flowcontrolv1.PriorityLevelConfiguration).DeepCopy,
		sameSpec: func(a, b *flowcontrolv1.PriorityLevelConfiguration) bool {
			return apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
		},
		setSpec: func(into, from *flowcontrolv1.PriorityLevelConfiguration) { from.Spec.DeepCopyInto(&into.Spec) },
	}
	schemas := flowKind[*flowcontrolv1.FlowSchema]{
		mandatory: flowbootstrap.MandatoryFlowSchemas, suggested: flowbootstrap.SuggestedFlowSchemas,
		client: client.FlowSchemas(), list: flow.FlowSchemas().Lister().List,
		copyOf:   (*flowcontrolv1.FlowSchema).DeepCopy,
		sameSpec: func(a, b *flowcontrolv1.FlowSchema) bool { return apiequality.Semantic.DeepEqual(a.Spec, b.Spec) },
		setSpec:  func(into, from *flowcontrolv1.FlowSchema) { from.Spec.DeepCopyInto(&into.Spec) },
	}
	informers := []cache.SharedIndexInformer{flow.PriorityLevelConfigurations().Informer(), flow.FlowSchemas().Informer()}
	return func(ctx context.Context) error {
		if !cache.WaitForCacheSync(ctx.Done(), informers[0].HasSynced, informers[1].HasSynced) {
			return ctx.Err()
		}
		ensure := func() error { return errors.Join(levels.ensure(ctx), schemas.ensure(ctx)) }
		if err := ensure(); err != nil {
			return err
		}
		return repeat(ctx, informers, ensure)
	}
}

// repeat calls ensure again after each change or deletion of an object, in the background, with a pause between.
func repeat(ctx context.Context, informers []cache.SharedIndexInformer, ensure func() error) error {
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default: // there is a round to come anyway
		}
	}
	for _, informer := range informers {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
		})
		if err != nil {
			return fmt.Errorf("watch priority and fairness: %w", err)
		}
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if err := ensure(); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Could not keep priority and fairness, will try again")
				notify()
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(flowPause):
			}
		}
	}()
	return nil
}

// flowKind is one of the two kinds of priority and fairness.
type flowKind[T metav1.Object] struct {
	mandatory, suggested []T
	client               interface {
		Create(ctx context.Context, obj T, options metav1.CreateOptions) (T, error)
		Update(ctx context.Context, obj T, options metav1.UpdateOptions) (T, error)
		Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
	}
	list     func(labels.Selector) ([]T, error)
	copyOf   func(T) T
	sameSpec func(a, b T) bool
	setSpec  func(into, from T)
}

func (k flowKind[T]) ensure(ctx context.Context) error {
	have, err := k.list(labels.Everything())
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for i, want := range slices.Concat(k.mandatory, k.suggested) {
		wanted[want.GetName()] = true
		at := slices.IndexFunc(have, func(h T) bool { return h.GetName() == want.GetName() })
		if at < 0 {
			_, err = k.client.Create(ctx, k.copyOf(want), metav1.CreateOptions{})
		} else if revised, needed := k.revise(have[at], want, i < len(k.mandatory)); needed {
			_, err = k.client.Update(ctx, revised, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("keep %s: %w", want.GetName(), err)
		}
	}
	for _, h := range have { // what a former version had kept
		if wanted[h.GetName()] || h.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] != "true" {
			continue
		}
		version := h.GetResourceVersion()
		err := k.client.Delete(ctx, h.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("remove %s: %w", h.GetName(), err)
		}
	}
	return nil
}

// revise returns what an object should become, false if it is right.
func (k flowKind[T]) revise(have, want T, mandatory bool) (T, bool) {
	keep := mandatory || keepsSpec(have)
	annotation, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	annotated, sameSpec := err == nil && annotation == keep, k.sameSpec(have, want)
	if annotated && (!keep || sameSpec) {
		return have, false
	}
	revised := k.copyOf(have)
	if keep {
		k.setSpec(revised, want)
	}
	annotations := revised.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(keep)
	revised.SetAnnotations(annotations)
	return revised, true
}

// keepsSpec tells whether the owner of a suggested object leaves its spec to the server.
func keepsSpec(obj metav1.Object) bool {
	if keep, err := strconv.ParseBool(obj.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err == nil {
		return keep
	}
	return obj.GetGeneration() == 1 // nobody has touched it
}
