package volumes

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// trustBundles watches the cluster's trust bundles, from the first pod on that asks for one.
type trustBundles struct {
	client  kubernetes.Interface
	changed func()
	wanted  chan struct{}
	want    sync.Once
	indexer cache.Indexer
	synced  chan struct{}
}

func newTrustBundles(client kubernetes.Interface, changed func()) *trustBundles {
	return &trustBundles{
		client: client, changed: changed, wanted: make(chan struct{}), synced: make(chan struct{}),
		indexer: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
	}
}

func (t *trustBundles) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-t.wanted:
	}
	api := t.client.CertificatesV1().ClusterTrustBundles()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, o)
		},
	}, t.client)
	store := &notifyingStore{Store: t.indexer, changed: t.changed, synced: t.synced}
	cache.NewReflectorWithOptions(lw, &certificatesv1.ClusterTrustBundle{}, store, cache.ReflectorOptions{Name: "kubelet-lite/trustbundles"}).RunWithContext(ctx)
}

// notifyingStore tells after every change.
type notifyingStore struct {
	cache.Store
	changed func()
	synced  chan struct{}
	once    sync.Once
}

func (s *notifyingStore) Add(obj any) error    { return s.after(s.Store.Add(obj)) }
func (s *notifyingStore) Update(obj any) error { return s.after(s.Store.Update(obj)) }
func (s *notifyingStore) Delete(obj any) error { return s.after(s.Store.Delete(obj)) }
func (s *notifyingStore) Replace(list []any, rv string) error {
	err := s.Store.Replace(list, rv)
	s.once.Do(func() { close(s.synced) })
	return s.after(err)
}

func (s *notifyingStore) after(err error) error {
	s.changed()
	return err
}

func (t *trustBundles) get(ctx context.Context, source *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	t.want.Do(func() { close(t.wanted) })
	select {
	case <-t.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for cluster trust bundles: %w", ctx.Err())
	}
	var all []*certificatesv1.ClusterTrustBundle
	for _, obj := range t.indexer.List() {
		all = append(all, obj.(*certificatesv1.ClusterTrustBundle))
	}
	return selectBundles(all, source)
}

// selectBundles unifies what a projection selects: each certificate once, in a stable order.
func selectBundles(all []*certificatesv1.ClusterTrustBundle, source *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	selector, err := metav1.LabelSelectorAsSelector(source.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("label selector: %w", err)
	}
	anchors := map[string]struct{}{}
	found := false
	for _, bundle := range all {
		if !selects(source, selector, bundle) {
			continue
		}
		found = true
		for rest := []byte(bundle.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			anchors[string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))] = struct{}{}
		}
	}
	switch {
	case found || isTrue(source.Optional):
	case source.Name != nil:
		return nil, fmt.Errorf("clustertrustbundle %q not found", *source.Name)
	default:
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	var out bytes.Buffer
	for _, anchor := range slices.Sorted(maps.Keys(anchors)) {
		out.WriteString(anchor)
	}
	return out.Bytes(), nil
}

func selects(source *corev1.ClusterTrustBundleProjection, selector labels.Selector, bundle *certificatesv1.ClusterTrustBundle) bool {
	if source.Name != nil {
		return bundle.Name == *source.Name
	}
	return source.SignerName != nil && bundle.Spec.SignerName == *source.SignerName && selector.Matches(labels.Set(bundle.Labels))
}

func usesTrustBundle(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
}
