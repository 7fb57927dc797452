// Package hint helps plugins to write queueing hints: which change in the cluster may let a refused pod through.
package hint

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// On builds an event with a hint that sees typed objects; a nil *T stands for "none" (old of an addition, new of a deletion).
func On[T any](resource fwk.EventResource, action fwk.ActionType, helps func(pod *corev1.Pod, old, new *T) bool) fwk.ClusterEventWithHint {
	return fwk.ClusterEventWithHint{
		Event: fwk.ClusterEvent{Resource: resource, ActionType: action},
		QueueingHintFn: func(_ klog.Logger, pod *corev1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
			older, err := as[T](oldObj)
			if err != nil {
				return fwk.Queue, err
			}
			newer, err := as[T](newObj)
			if err != nil {
				return fwk.Queue, err
			}
			if helps(pod, older, newer) {
				return fwk.Queue, nil
			}
			return fwk.QueueSkip, nil
		},
	}
}

// Always builds an event after which the pod is tried in any case.
func Always(resource fwk.EventResource, action fwk.ActionType) fwk.ClusterEventWithHint {
	return fwk.ClusterEventWithHint{Event: fwk.ClusterEvent{Resource: resource, ActionType: action}}
}

func as[T any](obj any) (*T, error) {
	if obj == nil {
		return nil, nil
	}
	t, ok := obj.(*T)
	if !ok {
		return nil, fmt.Errorf("expected %T, got %T", t, obj)
	}
	return t, nil
}
