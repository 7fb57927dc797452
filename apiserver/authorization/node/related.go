package node

import (
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/client-go/informers"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

const (
	byNode   = "keelson/node"   // pods by the node they are bound to
	bySecret = "keelson/secret" // persistent volumes by the secrets they name
)

// related answers which objects a node needs. There is no graph to keep: a node has few pods, so the question "does one of them
// name this object" is answered by looking at them.
type related interface {
	related(node, resource, namespace, name string) bool
	// changed is closed when the next pod is bound to the node, or a pod, resource slice or certificate request of it changes.
	changed(node string) <-chan struct{}
}

type lookup struct {
	signals      *signals
	pods         cache.Indexer
	podLister    corelisters.PodLister
	volumes      cache.Indexer
	volumeNames  corelisters.PersistentVolumeLister
	attachments  storagelisters.VolumeAttachmentLister
	slices       resourcelisters.ResourceSliceLister
	certificates certificateslisters.PodCertificateRequestLister
}

func newRelated(factory informers.SharedInformerFactory) (related, error) {
	pods := factory.Core().V1().Pods()
	volumes := factory.Core().V1().PersistentVolumes()
	if err := pods.Informer().AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if node := nodeOf(obj); node != "" {
			return []string{node}, nil
		}
		return nil, nil
	}}); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	if err := volumes.Informer().AddIndexers(cache.Indexers{bySecret: indexVolumeSecrets}); err != nil {
		return nil, fmt.Errorf("index persistent volumes: %w", err)
	}
	signals := &signals{waiting: map[string]chan struct{}{}}
	slices, certificates := factory.Resource().V1().ResourceSlices(), factory.Certificates().V1().PodCertificateRequests()
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), slices.Informer(), certificates.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: signals.changed, UpdateFunc: func(_, now any) { signals.changed(now) },
		}); err != nil {
			return nil, fmt.Errorf("watch what nodes have: %w", err)
		}
	}
	return &lookup{
		signals: signals,
		pods:    pods.Informer().GetIndexer(), podLister: pods.Lister(),
		volumes: volumes.Informer().GetIndexer(), volumeNames: volumes.Lister(),
		attachments: factory.Storage().V1().VolumeAttachments().Lister(),
		slices:      slices.Lister(), certificates: certificates.Lister(),
	}, nil
}

func (l *lookup) changed(node string) <-chan struct{} { return l.signals.of(node) }

func (l *lookup) related(node, resource, namespace, name string) bool {
	switch resource {
	case "pods":
		pod, err := l.podLister.Pods(namespace).Get(name)
		return err == nil && pod.Spec.NodeName == node
	case "persistentvolumes":
		volume, err := l.volumeNames.Get(name)
		return err == nil && l.claimed(node, volume)
	case "volumeattachments":
		attachment, err := l.attachments.Get(name)
		return err == nil && attachment.Spec.NodeName == node
	case "resourceslices":
		slice, err := l.slices.Get(name)
		return err == nil && nodeOf(slice) == node
	case "podcertificaterequests":
		request, err := l.certificates.PodCertificateRequests(namespace).Get(name)
		return err == nil && nodeOf(request) == node
	case "secrets":
		return l.anyPod(node, namespace, resource, name) || l.secretOfVolume(node, namespace, name)
	}
	return l.anyPod(node, namespace, resource, name)
}

// nodeOf returns the node that an object is of; empty: of none.
func nodeOf(obj any) string {
	switch o := obj.(type) {
	case *corev1.Pod:
		return o.Spec.NodeName
	case *resourcev1.ResourceSlice:
		return ptr.Deref(o.Spec.NodeName, "")
	case *certificatesv1.PodCertificateRequest:
		return string(o.Spec.NodeName)
	}
	return ""
}

func (l *lookup) anyPod(node, namespace, resource, name string) bool {
	for _, obj := range must(l.pods.ByIndex(byNode, node)) {
		pod := obj.(*corev1.Pod)
		if pod.Namespace == namespace && slices.Contains(References(pod), Reference{Resource: resource, Name: name}) {
			return true
		}
	}
	return false
}

// claimed tells whether the volume is bound to a claim that a pod of the node uses.
func (l *lookup) claimed(node string, volume *corev1.PersistentVolume) bool {
	claim := volume.Spec.ClaimRef
	return claim != nil && l.anyPod(node, claim.Namespace, "persistentvolumeclaims", claim.Name)
}

func (l *lookup) secretOfVolume(node, namespace, name string) bool {
	for _, obj := range must(l.volumes.ByIndex(bySecret, namespace+"/"+name)) {
		if l.claimed(node, obj.(*corev1.PersistentVolume)) {
			return true
		}
	}
	return false
}

// must is for index lookups, which fail only if the index does not exist.
func must(found []any, err error) []any {
	if err != nil {
		panic(err)
	}
	return found
}

// indexVolumeSecrets lists the secrets that a kubelet needs to mount a volume.
func indexVolumeSecrets(obj any) ([]string, error) {
	volume, ok := obj.(*corev1.PersistentVolume)
	if !ok {
		return nil, nil
	}
	var keys []string
	add := func(refs ...*corev1.SecretReference) {
		for _, ref := range refs {
			if ref == nil || ref.Name == "" {
				continue
			}
			namespace := ref.Namespace
			if namespace == "" && volume.Spec.ClaimRef != nil {
				namespace = volume.Spec.ClaimRef.Namespace
			}
			keys = append(keys, namespace+"/"+ref.Name)
		}
	}
	source := volume.Spec.PersistentVolumeSource
	if s := source.CSI; s != nil {
		add(s.NodePublishSecretRef, s.NodeStageSecretRef, s.NodeExpandSecretRef, s.ControllerPublishSecretRef)
	}
	if s := source.ISCSI; s != nil {
		add(s.SecretRef)
	}
	if s := source.RBD; s != nil {
		add(s.SecretRef)
	}
	if s := source.CephFS; s != nil {
		add(s.SecretRef)
	}
	if s := source.FlexVolume; s != nil {
		add(s.SecretRef)
	}
	return keys, nil
}
