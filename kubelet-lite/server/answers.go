package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/logs"
)

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Healthy != nil {
		if err := s.cfg.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	ok(w, r)
}

func writeJSON(w http.ResponseWriter, r *http.Request, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Answer was not sent", "path", r.URL.Path, "err", err)
	}
}

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{}}
	for _, pod := range s.cfg.Pods.Pods() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, r, list)
}

// runningPods tells what the runtime runs, whatever the API says.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	answer, err := s.cfg.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		writeError(w, err)
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{}}
	index := map[string]int{}
	for _, c := range answer.Containers {
		uid := c.Labels["io.kubernetes.pod.uid"]
		i, seen := index[uid]
		if !seen {
			i = len(list.Items)
			index[uid] = i
			list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Name: c.Labels["io.kubernetes.pod.name"], Namespace: c.Labels["io.kubernetes.pod.namespace"], UID: types.UID(uid),
			}})
		}
		spec := &list.Items[i].Spec
		spec.Containers = append(spec.Containers, corev1.Container{Name: c.Labels["io.kubernetes.container.name"], Image: c.GetImage().GetImage()})
	}
	writeJSON(w, r, list)
}

func (s *Server) configz(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Configz == nil {
		http.NotFound(w, r)
		return
	}
	writeJSON(w, r, map[string]any{"kubeletconfig": s.cfg.Configz()})
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if tail := query.Get("tail"); tail != "" { // the parameter's old name
		query.Set("tailLines", tail)
		if tail == "all" {
			query.Del("tailLines")
		}
	}
	options, err := decodeLogOptions(query)
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"message": "Unable to decode query."}: %v`, err), http.StatusBadRequest)
		return
	}
	read, err := logOptions(options, s.cfg.Clock.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	id, path, err := s.cfg.Pods.ContainerID(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), options.Previous)
	if err != nil {
		var coded apierrors.APIStatus
		if !asStatus(err, &coded) && codeOf(err, 0) == 0 {
			http.Error(w, err.Error(), http.StatusBadRequest) // the container is not there yet, or not any more
			return
		}
		writeError(w, err)
		return
	}
	read.Running = func(ctx context.Context) (bool, error) { return s.running(ctx, id) }
	out := &flusher{w: w}
	stdout, stderr := io.Writer(out), io.Writer(out)
	if options.Stream != nil && *options.Stream == corev1.LogStreamStdout {
		stderr = nil
	}
	if options.Stream != nil && *options.Stream == corev1.LogStreamStderr {
		stdout = nil
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if read.Follow {
		out.flush() // so that the client knows that it is connected before the first line comes
	}
	if err := logs.Read(r.Context(), path, read, stdout, stderr); err != nil {
		if out.started {
			klog.FromContext(r.Context()).V(2).Info("Log stream ended", "path", path, "err", err)
			return
		}
		// What clients of upstream's kubelet see when a log has been removed.
		_, _ = fmt.Fprintf(w, "failed to try resolving symlinks in path %q: %v", path, err)
	}
}

// decodeLogOptions reads a query as the API server writes it.
func decodeLogOptions(query url.Values) (*corev1.PodLogOptions, error) {
	var errs []error
	isSet := func(name string) bool {
		value := query.Get(name)
		return query.Has(name) && value != "0" && !strings.EqualFold(value, "false")
	}
	number := func(name string) *int64 {
		if query.Get(name) == "" {
			return nil
		}
		n, err := strconv.ParseInt(query.Get(name), 10, 64)
		errs = append(errs, err)
		return &n
	}
	o := &corev1.PodLogOptions{
		Follow: isSet("follow"), Previous: isSet("previous"), Timestamps: isSet("timestamps"),
		TailLines: number("tailLines"), LimitBytes: number("limitBytes"), SinceSeconds: number("sinceSeconds"),
	}
	if text := query.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		errs = append(errs, err)
		o.SinceTime = &metav1.Time{Time: at}
	}
	if stream := query.Get("stream"); stream != "" {
		o.Stream = &stream
	}
	return o, errors.Join(errs...)
}

func logOptions(o *corev1.PodLogOptions, now time.Time) (logs.Options, error) {
	read := logs.Options{Follow: o.Follow, Timestamps: o.Timestamps, Tail: -1, LimitBytes: -1}
	if o.TailLines != nil {
		if *o.TailLines < 0 {
			return read, errors.New(`{"message": "Invalid request. tailLines must be greater than or equal to 0"}`)
		}
		read.Tail = *o.TailLines
	}
	if o.LimitBytes != nil {
		if *o.LimitBytes < 1 {
			return read, errors.New(`{"message": "Invalid request. limitBytes must be greater than 0"}`)
		}
		read.LimitBytes = *o.LimitBytes
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		return read, errors.New(`{"message": "Invalid request. at most one of sinceTime or sinceSeconds may be specified"}`)
	case o.SinceSeconds != nil:
		read.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	case o.SinceTime != nil:
		read.Since = o.SinceTime.Time
	}
	return read, nil
}

func (s *Server) running(ctx context.Context, id string) (bool, error) {
	answer, err := s.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return answer.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING, nil
}

// flusher sends each write at once.
type flusher struct {
	w       http.ResponseWriter
	started bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.started = true
	n, err := f.w.Write(p)
	f.flush()
	return n, err
}

func (f *flusher) flush() {
	if w, ok := f.w.(http.Flusher); ok {
		w.Flush()
	}
}

// checkpoint freezes a container's state into an archive that only root can read.
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	id, _, err := s.cfg.Pods.ContainerID(r.Context(), namespace, pod, container, false)
	if err != nil {
		writeError(w, err)
		return
	}
	var timeout int64
	if text := r.URL.Query().Get("timeout"); text != "" {
		if timeout, err = strconv.ParseInt(text, 10, 64); err != nil {
			http.Error(w, "cannot parse value of timeout parameter", http.StatusBadRequest)
			return
		}
	}
	if err := os.MkdirAll(s.cfg.CheckpointDir, 0o700); err != nil {
		writeError(w, err)
		return
	}
	name := fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", pod, namespace, container, s.cfg.Clock.Now().UTC().Format(time.RFC3339))
	path := filepath.Join(s.cfg.CheckpointDir, name)
	_, err = s.cfg.Runtime.CheckpointContainer(r.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: path, Timeout: timeout})
	if err != nil {
		writeError(w, fmt.Errorf("checkpointing of %v/%v/%v failed (%w)", namespace, pod, container, err))
		return
	}
	writeJSON(w, r, map[string][]string{"items": {path}})
}

func asStatus(err error, target *apierrors.APIStatus) bool { return errors.As(err, target) }

// codeOf translates a gRPC code; other is for errors without one.
func codeOf(err error, other int) int {
	var coded interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &coded) {
		return other
	}
	switch coded.GRPCStatus().Code() {
	case codes.NotFound:
		return http.StatusNotFound
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotFound
	default:
		return http.StatusInternalServerError
	}
}

func fields(s string) []string { return strings.Fields(s) }
