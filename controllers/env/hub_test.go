package env

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
)

func TestHub(t *testing.T) {
	pod := func(name string) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	h := &hub{store: toolscache.NewStore(toolscache.MetaNamespaceKeyFunc)}
	var heard []string
	joins := func(who string) {
		h.join(On(&corev1.Pod{}, Changes[*corev1.Pod]{
			Created: func(p *corev1.Pod, _ Queue) { heard = append(heard, who+" created "+p.Name) },
			Deleted: func(p *corev1.Pod, _ Queue) { heard = append(heard, who+" deleted "+p.Name) },
		}).heard(nil))
	}
	joins("early")
	if err := h.store.Add(pod("a")); err != nil {
		t.Fatal(err)
	}
	h.OnAdd(pod("a"), true)
	joins("late") // hears of what is there
	h.OnUpdate(pod("a"), pod("a"))
	h.OnDelete(toolscache.DeletedFinalStateUnknown{Key: "a", Obj: pod("a")})
	want := []string{"early created a", "late created a", "early deleted a", "late deleted a"}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Error(diff)
	}
}
