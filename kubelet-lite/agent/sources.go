package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/podenv"
)

// sources are the watches that the agent lives on.
type sources struct {
	factories []informers.SharedInformerFactory

	pods           cache.SharedIndexInformer
	node           cache.SharedIndexInformer
	services       corelisters.ServiceLister
	servicesSynced cache.InformerSynced
	classes        nodelisters.RuntimeClassLister
}

func newSources(client kubernetes.Interface, nodeName string) *sources {
	selecting := func(selector fields.Selector) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(stripManagedFields),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = selector.String() }))
	}
	pods := selecting(fields.OneTermEqualSelector("spec.nodeName", nodeName))
	node := selecting(fields.OneTermEqualSelector(metav1.ObjectNameField, nodeName))
	all := selecting(fields.Everything())
	return &sources{
		factories: []informers.SharedInformerFactory{pods, node, all},
		pods:      pods.Core().V1().Pods().Informer(), node: node.Core().V1().Nodes().Informer(),
		services: all.Core().V1().Services().Lister(), servicesSynced: all.Core().V1().Services().Informer().HasSynced,
		classes: all.Node().V1().RuntimeClasses().Lister(),
	}
}

func (s *sources) start(ctx context.Context) {
	for _, f := range s.factories {
		f.Start(ctx.Done())
	}
}

// stripManagedFields saves half the memory of an object; the agent never needs to know who wrote what.
func stripManagedFields(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// env computes a container's environment from what is known now.
func (a *agent) env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	if !cache.WaitForCacheSync(ctx.Done(), a.sources.servicesSynced) {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars")
	}
	services, err := a.sources.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	if pod.Namespace != metav1.NamespaceDefault {
		if master, err := a.sources.services.Services(metav1.NamespaceDefault).Get("kubernetes"); err == nil {
			services = append(services, master)
		}
	}
	return podenv.For(ctx, podenv.Input{
		Pod: pod, Container: c, PodIPs: podIPs, HostIPs: a.nodeIPs, NodeAllocatable: a.allocation, Services: services, Objects: a.objects,
		ReadFile: func(volume, path string) ([]byte, error) { return a.volumes.ReadFile(pod.UID, volume, path) },
	})
}

// runtimeHandler finds the handler of the pod's RuntimeClass.
func (a *agent) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	var class *nodev1.RuntimeClass
	class, err := a.sources.classes.Get(*name)
	if apierrors.IsNotFound(err) { // the watch may lag behind a pod that was made right after its class
		class, err = a.client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("failed to get sandbox runtime: RuntimeClass %q: %w", *name, err)
	}
	return class.Handler, nil
}
