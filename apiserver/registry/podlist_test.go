package registry

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/apis"
)

func pods(n int) *corev1.PodList {
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "more", RemainingItemCount: new(int64(5))}}
	for i := range n {
		list.Items = append(list.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprint("pod-", i), UID: types.UID(fmt.Sprint("uid-", i)), ResourceVersion: "9",
				Annotations: map[string]string{"one": strings.Repeat("x", 100*i)},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	return list
}

// TestPodListIsEncodedAsTheLibraryDoes compares bytes, for every media type and with what is remembered.
func TestPodListIsEncodedAsTheLibraryDoes(t *testing.T) {
	scheme := apis.NewScheme()
	codecs := apis.NewCodecs(scheme)
	encoder := newPodEncoder(scheme)
	for _, info := range codecs.SupportedMediaTypes() {
		for _, n := range []int{0, 1, 3, 3, 200} {
			codec := codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)
			var want, got bytes.Buffer
			if err := codec.Encode(pods(n), &want); err != nil {
				t.Fatal(err)
			}
			if err := codec.Encode(&podList{pods(n), encoder}, &got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Errorf("%s of %d pods: got\n%q, the library writes\n%q", info.MediaType, n, got.Bytes(), want.Bytes())
			}
		}
	}
	if len(encoder.young) != 200 {
		t.Errorf("%d pods are remembered", len(encoder.young))
	}
}

// writes remembers how long each write was.
type writes []int

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, len(p))
	return len(p), nil
}

// TestPodListIsWrittenInLargeParts: what is larger than 128 KB must show it in its first write, to be compressed.
func TestPodListIsWrittenInLargeParts(t *testing.T) {
	encoder := newPodEncoder(apis.NewScheme())
	for n, want := range map[int]int{0: 1, 3: 1, 60: 1, 120: 3} {
		var seen writes
		if err := (&podList{pods(n), encoder}).CacheEncode(encoder.identifier, nil, &seen); err != nil {
			t.Fatal(err)
		}
		if len(seen) != want || want > 1 && seen[0] < 128<<10 {
			t.Errorf("%d pods: writes of %v bytes", n, seen)
		}
	}
}

func TestPodEncoderTellsVersionsApart(t *testing.T) {
	encoder := newPodEncoder(apis.NewScheme())
	encode := func(change func(*corev1.Pod)) []byte {
		pod := pods(1).Items[0]
		change(&pod)
		message, err := encoder.encode(&pod)
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	first := encode(func(*corev1.Pod) {})
	newer := encode(func(p *corev1.Pod) { p.ResourceVersion = "10"; p.Spec.NodeName = "n" })
	other := encode(func(p *corev1.Pod) { p.UID = "other"; p.Name = "other" })
	if bytes.Equal(first, newer) || bytes.Equal(first, other) {
		t.Error("another pod was answered with what is remembered")
	}
	if again := encode(func(*corev1.Pod) {}); &again[0] != &first[0] {
		t.Error("the first version is forgotten")
	}
	encode(func(p *corev1.Pod) { p.UID = ""; p.Name = "none" })
	if len(encoder.young) != 3 {
		t.Errorf("%d versions are remembered, want 3", len(encoder.young))
	}
}

func TestPodEncoderIsBounded(t *testing.T) {
	encoder := newPodEncoder(apis.NewScheme())
	for i := range 300 {
		pod := pods(1).Items[0]
		pod.UID = types.UID(fmt.Sprint(i))
		pod.Annotations = map[string]string{"large": strings.Repeat("x", encodedBytes/100)}
		if _, err := encoder.encode(&pod); err != nil {
			t.Fatal(err)
		}
	}
	sum := 0
	for _, generation := range []map[podVersion][]byte{encoder.young, encoder.old} {
		for _, message := range generation {
			sum += len(message)
		}
	}
	if sum > 2*encodedBytes || sum < encodedBytes {
		t.Errorf("%d bytes are remembered", sum)
	}
}

// TestPodListIsAList: the library reads and changes lists by reflection.
func TestPodListIsAList(t *testing.T) {
	list := &podList{pods(2), newPodEncoder(apis.NewScheme())}
	var names []string
	err := meta.EachListItem(list, func(item runtime.Object) error {
		names = append(names, item.(*corev1.Pod).Name)
		return nil
	})
	if diff := cmp.Diff([]string{"pod-0", "pod-1"}, names); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if err := meta.SetList(list, []runtime.Object{}); err != nil || meta.LenList(list) != 0 || list.Items == nil {
		t.Errorf("emptied: %v, %d items", err, meta.LenList(list))
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil || accessor.GetContinue() != "more" {
		t.Error(err)
	}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "PodList"})
	if kind := list.DeepCopyObject().GetObjectKind().GroupVersionKind().Kind; kind != "PodList" {
		t.Error(kind)
	}
}
