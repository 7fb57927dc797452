package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler/extender"
	"keelson.dev/scheduler/plugins/noderesources"
	"keelson.dev/scheduler/profile"
)

// extenderName stands for all extenders among those that refuse a pod.
const extenderName = "Extender"

// addExtenders makes the configured extenders. It returns the resources that only they count.
func (s *Scheduler) addExtenders(confs []configv1.Extender) (ignored []string, err error) {
	s.extenders, ignored, err = extender.New(confs)
	return ignored, err
}

// ignoreResources makes the fit of resources leave out those that only extenders count.
func ignoreResources(list []profile.Plugin, names []string) {
	for i := range list {
		if list[i].Name != noderesources.FitName || len(names) == 0 {
			continue
		}
		args, ok := list[i].Args.(*configv1.NodeResourcesFitArgs)
		if !ok {
			args = &configv1.NodeResourcesFitArgs{}
		}
		args = args.DeepCopy()
		args.IgnoredResources = append(args.IgnoredResources, names...)
		list[i].Args = args
	}
}

// askExtenders lets each interested extender remove nodes.
func (s *Scheduler) askExtenders(pod *corev1.Pod, nodes []fwk.NodeInfo, d *profile.Diagnosis) ([]fwk.NodeInfo, error) {
	for _, e := range s.extenders {
		if len(nodes) == 0 {
			break
		}
		if !e.IsFilter() || !e.IsInterested(pod) {
			continue
		}
		kept, failed, unresolvable, err := e.Filter(pod, nodes)
		if err != nil {
			if e.IsIgnorable() {
				continue
			}
			return nil, err
		}
		if len(kept) < len(nodes) {
			d.Rejectors.Insert(extenderName)
		}
		for node, reason := range unresolvable {
			d.NodeStatus[node] = fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reason).WithPlugin(e.Name())
		}
		for node, reason := range failed {
			if _, ok := unresolvable[node]; !ok {
				d.NodeStatus[node] = fwk.NewStatus(fwk.Unschedulable, reason).WithPlugin(e.Name())
			}
		}
		nodes = kept
	}
	return nodes, nil
}

// scoreExtenders adds the extenders' priorities, scaled from their range (0 to 10) to the framework's.
func (s *Scheduler) scoreExtenders(ctx context.Context, pod *corev1.Pod, nodes []fwk.NodeInfo, scores []fwk.NodePluginScores) {
	const extenderMax = 10
	for _, e := range s.extenders {
		if !e.IsPrioritizer() || !e.IsInterested(pod) {
			continue
		}
		list, weight, err := e.Prioritize(pod, nodes)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Extender could not score", "extender", e.Name(), "pod", klog.KObj(pod))
			continue
		}
		byHost := map[string]int64{}
		for _, p := range *list {
			byHost[p.Host] = p.Score * weight * (fwk.MaxScore / extenderMax)
		}
		for i := range scores {
			scores[i].TotalScore += byHost[scores[i].Name]
		}
	}
}

// extenderBind lets an extender that binds take the pod.
func (s *Scheduler) extenderBind(pod *corev1.Pod, node string) (handled bool, status *fwk.Status) {
	for _, e := range s.extenders {
		if e.IsBinder() && e.IsInterested(pod) {
			return true, fwk.AsStatus(e.Bind(&corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
				Target:     corev1.ObjectReference{Kind: "Node", Name: node},
			}))
		}
	}
	return false, nil
}
