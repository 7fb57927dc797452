package endpointslice

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"

	"keelson.dev/internal/lister"
)

func TestTopologyChanged(t *testing.T) {
	node := func(zone, cpu string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelTopologyZone: zone}}, Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	cases := map[string]struct {
		after *corev1.Node
		want  bool
	}{
		"same":          {node("a", "1", "True"), false},
		"written anew":  {node("a", "1000m", "True"), false},
		"another zone":  {node("b", "1", "True"), true},
		"more CPU":      {node("a", "2", "True"), true},
		"not ready now": {node("a", "1", "False"), true},
	}
	for name, tc := range cases {
		if got := topologyChanged(node("a", "1", "True"), tc.after); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestSelected(t *testing.T) {
	store := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc})
	for _, pod := range []*corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "yes", Labels: map[string]string{"app": "x", "more": "y"}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "no", Labels: map[string]string{"app": "y"}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "elsewhere", Labels: map[string]string{"app": "x"}}},
	} {
		if err := store.Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
	var got []string
	for _, pod := range Selected(lister.Of[*corev1.Pod]{Indexer: store}, service) {
		got = append(got, pod.Name)
	}
	if diff := cmp.Diff([]string{"yes"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSplitKey(t *testing.T) {
	for key, want := range map[string]types.NamespacedName{"a/b": {Namespace: "a", Name: "b"}, "b": {Name: "b"}} {
		if got := splitKey(key); got != want {
			t.Errorf("splitKey(%q) = %v", key, got)
		}
	}
}
