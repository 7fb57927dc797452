// Package defaultbinder binds a pod through the API.
package defaultbinder

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
)

// Name is the plugin's name.
const Name = "DefaultBinder"

// Plugin is the plugin.
type Plugin struct {
	handle fwk.Handle
	poster poster
}

// poster is what a Handle of ours has beside its client: a way to post that takes less work (apiclient.Poster).
type poster interface {
	Post(ctx context.Context, path string, obj runtime.Object) (accepted bool, err error)
}

// New makes the plugin.
func New(_ context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p := &Plugin{handle: h}
	p.poster, _ = h.(poster)
	return p, nil
}

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// EventsToRegister implements fwk.EnqueueExtensions: what it refuses is tried again after a back-off.
func (*Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) { return nil, nil }

// Bind implements fwk.BindPlugin.
func (p *Plugin) Bind(ctx context.Context, _ fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	binding := &corev1.Binding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	if p.poster != nil {
		path := "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name + "/binding"
		if accepted, err := p.poster.Post(ctx, path, binding); accepted || err != nil {
			return fwk.AsStatus(err)
		}
	}
	return fwk.AsStatus(p.handle.ClientSet().CoreV1().Pods(pod.Namespace).Bind(ctx, binding, metav1.CreateOptions{}))
}
