package scheduler

import (
	"context"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
)

// reporter is upstream's name in events.
const reporter = "default-scheduler"

// recorder writes events. Beside the library's recorder, which remembers each event for minutes in case it comes again, it writes
// those of which there is one for a pod: that takes half of the time, and no memory.
type recorder struct {
	events.EventRecorderLogger
	client   kubernetes.Interface
	poster   *apiclient.Poster
	instance string
}

func newRecorder(client kubernetes.Interface, poster *apiclient.Poster, broadcaster events.EventBroadcaster) *recorder {
	host, _ := os.Hostname() // as the library does
	return &recorder{broadcaster.NewRecorder(scheme.Scheme, reporter), client, poster, reporter + "-" + host}
}

func reference(pod *corev1.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
}

// Once writes an event that will not repeat; related may be nil. It returns when the API server has it; if the API server will not
// take it now, the library goes on trying.
func (r *recorder) Once(ctx context.Context, pod, related *corev1.Pod, reason, action, note string) {
	now := time.Now()
	event := &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: util.GenerateEventName(pod.Name, now.UnixNano())},
		EventTime:  metav1.NewMicroTime(now), ReportingController: reporter, ReportingInstance: r.instance,
		Type: corev1.EventTypeNormal, Reason: reason, Action: action, Note: note, Regarding: reference(pod),
	}
	if related != nil {
		to := reference(related)
		event.Related = &to
	}
	if accepted, err := r.poster.Post(ctx, "/apis/events.k8s.io/v1/namespaces/"+pod.Namespace+"/events", event); accepted || err != nil && ctx.Err() != nil {
		return
	}
	if _, err := r.client.EventsV1().Events(pod.Namespace).Create(ctx, event, metav1.CreateOptions{}); err == nil {
		return
	}
	logging := r.WithLogger(klog.FromContext(ctx))
	if related == nil { // an interface of a nil pointer would be an object
		logging.Eventf(pod, nil, event.Type, reason, action, "%s", note)
		return
	}
	logging.Eventf(pod, related, event.Type, reason, action, "%s", note)
}
