package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/internal/podstate"
)

const (
	// startPeriod is how long after a pod's start its CPU usage counts only while it is ready: starting takes more than serving.
	startPeriod = 5 * time.Minute
	// readyDelay is how soon after its start a pod's readiness is known.
	readyDelay = 30 * time.Second
)

// sample is the usage of one pod, in thousandths.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

// goal is what the usage of a pod should be: a share of its request in percent, or a value in thousandths.
type goal struct {
	percent  int32
	requests map[string]int64 // by pod, in thousandths; only with percent
	value    int64
}

// ratio returns usage ÷ target, and the usage itself: in percent if the goal is, and per pod.
func (g goal) ratio(usage map[string]int64) (ratio float64, percent int32, average int64, err error) {
	var total, requested int64
	for pod, value := range usage {
		if g.requests == nil {
			total += value
			continue
		}
		if request, ok := g.requests[pod]; ok { // the metrics may still have pods that are gone
			total += value
			requested += request
		}
	}
	if len(usage) == 0 {
		return 0, 0, 0, errors.New("no metrics")
	}
	average = total / int64(len(usage))
	if g.requests == nil {
		return float64(average) / float64(g.value), 0, average, nil
	}
	if requested == 0 {
		return 0, 0, 0, errors.New("no metrics returned matched known pods")
	}
	percent = int32(total * 100 / requested)
	return float64(percent) / float64(g.percent), percent, average, nil
}

// assumed is the usage of a pod without metrics that keeps it from being scaled away.
func (g goal) assumed(pod string) int64 {
	if g.requests == nil {
		return g.value
	}
	return g.requests[pod] * int64(max(100, g.percent)) / 100
}

// measured is the outcome of a calculation over pods.
type measured struct {
	replicas int32
	percent  int32
	average  int64
}

// replicasFor returns by how many pods the goal would be met. Pods without metrics, or that are starting, are counted so that they
// dampen: as if they used nothing when scaling up, and all they may when scaling down.
func replicasFor(pods []*corev1.Pod, samples map[string]sample, g goal, cpu bool, current int32, b behavior, now time.Time) (measured, error) {
	if len(pods) == 0 {
		return measured{}, errors.New("no pods returned by selector while calculating replica count")
	}
	usage, unready, missing := group(pods, samples, cpu, now)
	if len(usage) == 0 {
		return measured{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	ratio, percent, average, err := g.ratio(usage)
	if err != nil {
		return measured{}, err
	}
	out := measured{replicas: current, percent: percent, average: average}
	damped := ratio > 1 && len(unready) > 0
	if !damped && len(missing) == 0 {
		if !b.near(ratio) {
			out.replicas = int32(math.Ceil(ratio * float64(len(usage))))
		}
		return out, nil
	}
	for _, pod := range missing {
		switch {
		case ratio < 1:
			usage[pod] = g.assumed(pod)
		case ratio > 1:
			usage[pod] = 0
		}
	}
	if damped {
		for _, pod := range unready {
			usage[pod] = 0
		}
	}
	next, _, _, err := g.ratio(usage)
	if err != nil {
		return measured{}, err
	}
	if b.near(next) || ratio < 1 && next > 1 || ratio > 1 && next < 1 {
		return out, nil
	}
	replicas := int32(math.Ceil(next * float64(len(usage))))
	if next < 1 && replicas > current || next > 1 && replicas < current {
		return out, nil
	}
	out.replicas = replicas
	return out, nil
}

// group sorts the pods that count: by usage, not ready yet, or without metrics.
func group(pods []*corev1.Pod, samples map[string]sample, cpu bool, now time.Time) (usage map[string]int64, unready, missing []string) {
	usage = map[string]int64{}
	for _, pod := range pods {
		s, found := samples[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
		case pod.Status.Phase == corev1.PodPending:
			unready = append(unready, pod.Name)
		case !found:
			missing = append(missing, pod.Name)
		case cpu && starting(pod, s, now):
			unready = append(unready, pod.Name)
		default:
			usage[pod.Name] = s.value
		}
	}
	return usage, unready, missing
}

// starting reports whether a sample tells of a pod's start rather than of its work.
func starting(pod *corev1.Pod, s sample, now time.Time) bool {
	ready, start := podstate.Condition(pod, corev1.PodReady), pod.Status.StartTime
	switch {
	case ready == nil || start == nil:
		return true
	case start.Add(startPeriod).After(now):
		return ready.Status == corev1.ConditionFalse || s.at.Before(ready.LastTransitionTime.Add(s.window))
	}
	return ready.Status == corev1.ConditionFalse && start.Add(readyDelay).After(ready.LastTransitionTime.Time)
}

// requestsOf returns what the pods, or one container of each, request of a resource, in thousandths.
func requestsOf(pods []*corev1.Pod, resource corev1.ResourceName, container string) (map[string]int64, error) {
	requests := map[string]int64{}
	for _, pod := range pods {
		if pod.Spec.Resources != nil && container == "" {
			if request, ok := pod.Spec.Resources.Requests[resource]; ok {
				requests[pod.Name] = request.MilliValue()
				continue
			}
		}
		all := pod.Spec.Containers
		for i := range pod.Spec.InitContainers {
			if ptr.Deref(pod.Spec.InitContainers[i].RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
				all = append(slices.Clip(all), pod.Spec.InitContainers[i])
			}
		}
		var sum int64
		for i := range all {
			if container != "" && all[i].Name != container {
				continue
			}
			request, ok := all[i].Resources.Requests[resource]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", resource, all[i].Name, pod.Name)
			}
			sum += request.MilliValue()
		}
		requests[pod.Name] = sum
	}
	return requests, nil
}

// replicasForValue returns by how many ready pods a value, which they share, would meet its target.
func replicasForValue(pods []*corev1.Pod, value, target int64, current int32, b behavior) int32 {
	ratio := float64(value) / float64(target)
	if current == 0 {
		return int32(math.Ceil(ratio))
	}
	if b.near(ratio) {
		return current
	}
	ready := len(podstate.Select(pods, func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning && podstate.Ready(pod) }))
	return int32(math.Ceil(ratio * float64(ready)))
}

// replicasForShare returns how many pods have to share a value so that each has no more than target of it.
func replicasForShare(value, target int64, replicas int32, b behavior) (count int32, average int64) {
	count = replicas
	if replicas == 0 || !b.near(float64(value)/(float64(target)*float64(replicas))) {
		count = int32(math.Ceil(float64(value) / float64(target)))
	}
	return count, int64(math.Ceil(float64(value) / float64(max(replicas, 1))))
}
