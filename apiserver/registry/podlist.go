package registry

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// encodedBytes bounds each of the two generations of what is remembered: together 40,000 ordinary pods.
	encodedBytes = 32 << 20
	// encodedFor is how long it is remembered without a list that uses it: a component that starts lists at once what others listed.
	encodedFor = 5 * time.Minute
	// writeBytes is how much of a list is written at once. The library compresses a response whose first write is larger than 128 KB,
	// so a list that is larger must fill that much, and a smaller one must be one write.
	writeBytes = 256 << 10
)

// podEncoder remembers the protobuf form of pods that lists have returned. Pods are by far the most of what is listed, again and again
// by those who start or lost their watch, and to encode them is most of what a list costs. A pod is known by UID and resourceVersion,
// so what is remembered never is out of date; what lists do not ask for is forgotten.
type podEncoder struct {
	identifier runtime.Identifier // of the codec whose output this is
	buffers    sync.Pool          // of *bufio.Writer

	mu         sync.Mutex
	young, old map[podVersion][]byte
	size       int // of young
	forget     *time.Timer
}

type podVersion struct {
	uid     types.UID
	version string
}

func newPodEncoder(scheme *runtime.Scheme) *podEncoder {
	codec := serializer.NewCodecFactory(scheme).EncoderForVersion(protobuf.NewSerializer(scheme, scheme), corev1.SchemeGroupVersion)
	e := &podEncoder{identifier: codec.Identifier(), young: map[podVersion][]byte{}}
	e.buffers.New = func() any { return bufio.NewWriterSize(nil, writeBytes) }
	e.forget = time.AfterFunc(encodedFor, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.young, e.old, e.size = map[podVersion][]byte{}, nil, 0
	})
	return e
}

// encode returns the protobuf message of a pod, which nobody may change.
func (e *podEncoder) encode(pod *corev1.Pod) ([]byte, error) {
	key := podVersion{pod.UID, pod.ResourceVersion}
	e.mu.Lock()
	message, ok := e.young[key]
	if !ok {
		if message, ok = e.old[key]; ok {
			e.addLocked(key, message)
		}
	}
	e.mu.Unlock()
	if ok {
		return message, nil
	}
	message, err := pod.Marshal()
	if err == nil && key.uid != "" && key.version != "" {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.addLocked(key, message)
	}
	return message, err
}

func (e *podEncoder) addLocked(key podVersion, message []byte) {
	if e.size += len(message); e.size > encodedBytes {
		e.old, e.young, e.size = e.young, map[podVersion][]byte{}, len(message)
	}
	e.young[key] = message
}

// podList is a list that encodes itself. Whoever wants anything but protobuf gets the list inside.
type podList struct {
	*corev1.PodList
	encoder *podEncoder
}

var _ runtime.CacheableObject = &podList{}

// DeepCopyObject implements runtime.Object.
func (l *podList) DeepCopyObject() runtime.Object {
	return &podList{PodList: l.DeepCopy(), encoder: l.encoder}
}

// GetObject implements runtime.CacheableObject.
func (l *podList) GetObject() runtime.Object { return l.PodList }

// CacheEncode implements runtime.CacheableObject.
func (l *podList) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	if id != l.encoder.identifier {
		return encode(l.PodList, w)
	}
	l.encoder.forget.Reset(encodedFor)
	messages := make([][]byte, 0, 1+len(l.Items))
	meta, err := l.ListMeta.Marshal()
	if err != nil {
		return err
	}
	messages = append(messages, meta)
	for i := range l.Items {
		message, err := l.encoder.encode(&l.Items[i])
		if err != nil {
			return err
		}
		messages = append(messages, message)
	}
	buffer := l.encoder.buffers.Get().(*bufio.Writer)
	defer l.encoder.buffers.Put(buffer)
	buffer.Reset(w)
	defer buffer.Reset(nil)
	if err := writeList(buffer, metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, messages); err != nil {
		return err
	}
	return buffer.Flush()
}

// writeList writes what the library's serializer would: its prefix, and an envelope around the list's fields, of which metadata is the
// first and each item one more.
func writeList(w io.Writer, kind metav1.TypeMeta, messages [][]byte) error {
	var header [1 + binary.MaxVarintLen64]byte
	size := 0
	for _, message := range messages {
		size += 1 + len(binary.AppendUvarint(header[:0], uint64(len(message)))) + len(message)
	}
	if _, err := w.Write([]byte("k8s\x00")); err != nil {
		return err
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: kind.APIVersion, Kind: kind.Kind}}
	_, err := envelope.MarshalToWriter(w, size, func(w io.Writer) (int, error) {
		written, field := 0, byte(1)
		for _, message := range messages {
			for _, part := range [][]byte{binary.AppendUvarint(append(header[:0], field<<3|2), uint64(len(message))), message} {
				n, err := w.Write(part)
				if written += n; err != nil {
					return written, err
				}
			}
			field = 2
		}
		return written, nil
	})
	return err
}
