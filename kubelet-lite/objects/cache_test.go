package objects

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func podUsing(uid, secret string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", UID: types.UID(uid)}, Spec: corev1.PodSpec{
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: secret}},
		Containers:       []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}}},
	}}
}

func key(kind Kind, name string) Key {
	return Key{kind, types.NamespacedName{Namespace: "ns", Name: name}}
}

func TestReferencesAreCounted(t *testing.T) {
	client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "1", ResourceVersion: "1"}})
	c := New(client)
	changes := make(chan Key, 16)
	c.OnChange(func(k Key) { changes <- k })
	counts := func() map[Key]int {
		out := map[Key]int{}
		for k, it := range c.items {
			out[k] = it.refs
		}
		return out
	}
	c.Register(podUsing("a", "s"))
	c.Register(podUsing("a", "s"))
	c.Register(podUsing("b", "s"))
	if diff := cmp.Diff(map[Key]int{key(Secret, "s"): 2, key(ConfigMap, "cm"): 2}, counts()); diff != "" {
		t.Error(diff)
	}
	c.Register(podUsing("b", "other"))
	if diff := cmp.Diff(map[Key]int{key(Secret, "s"): 1, key(Secret, "other"): 1, key(ConfigMap, "cm"): 2}, counts()); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Secret(t.Context(), "ns", "s"); err != nil {
		t.Error(err)
	}
	if _, err := c.ConfigMap(t.Context(), "ns", "cm"); !apierrors.IsNotFound(err) {
		t.Errorf("want NotFound, got %v", err)
	}
	update := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "1", ResourceVersion: "2"}, Data: map[string][]byte{"k": []byte("v")}}
	if _, err := client.CoreV1().Secrets("ns").Update(t.Context(), update, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(5 * time.Second); ; {
		select {
		case k := <-changes:
			if secret, err := c.Secret(t.Context(), "ns", "s"); k == key(Secret, "s") && err == nil && string(secret.Data["k"]) == "v" {
				c.Unregister("a")
				c.Unregister("b")
				c.Unregister("b")
				if len(c.items) != 0 {
					t.Errorf("still watched: %v", counts())
				}
				return
			}
		case <-deadline:
			t.Fatal("the change was not told")
		}
	}
}
