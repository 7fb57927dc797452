package subresources

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"keelson.dev/apiserver/kubeletclient"
	"keelson.dev/apiserver/registry"
)

// stream connects a client with a container through the node's kubelet: exec, attach and port-forward. Towards the kubelet it is
// always SPDY; clients may also speak WebSocket, which is translated (exec, attach) or carries the SPDY bytes (port-forward).
type stream[O runtime.Object] struct {
	c    Config
	pods *registry.Kind
	// locate returns the path and query at the kubelet.
	locate func(pod *corev1.Pod, options O) (string, url.Values, error)
	// translate says which streams the options ask for.
	translate func(options O) translator.Options
	tunnel    bool
}

// New implements rest.Storage: the kind of the subresource, as discovery and admission see it, is that of its options.
func (s *stream[O]) New() runtime.Object {
	return reflect.New(reflect.TypeFor[O]().Elem()).Interface().(runtime.Object)
}

// Destroy implements rest.Storage; the store belongs to pods.
func (s *stream[O]) Destroy() {}

// NewConnectOptions implements rest.Connecter.
func (s *stream[O]) NewConnectOptions() (runtime.Object, bool, string) {
	return s.New(), false, ""
}

// ConnectMethods implements rest.Connecter: GET for WebSocket, POST for SPDY.
func (s *stream[O]) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// Connect implements rest.Connecter.
func (s *stream[O]) Connect(ctx context.Context, name string, obj runtime.Object, responder rest.Responder) (http.Handler, error) {
	options, ok := obj.(O)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", obj)
	}
	pod, err := podOf(ctx, s.pods, name)
	if err != nil {
		return nil, err
	}
	path, query, err := s.locate(pod, options)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	kubelet, err := s.c.Kubelet.Connect(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	location := kubelet.URL(path, query)
	direct := proxy.NewUpgradeAwareHandler(location, kubelet.Transport, false, true, proxy.NewErrorResponder(responder))
	direct.MaxBytesPerSec = s.c.MaxBytesPerSecond
	if s.tunnel {
		return translator.NewTranslatingHandler(direct, translator.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
	}
	translated := translator.NewStreamTranslatorHandler(location, kubelet.Transport, s.c.MaxBytesPerSecond, s.translate(options))
	return translator.NewTranslatingHandler(direct, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

func podOf(ctx context.Context, pods *registry.Kind, name string) (*corev1.Pod, error) {
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

func locateExec(pod *corev1.Pod, o *corev1.PodExecOptions) (string, url.Values, error) {
	query := url.Values{}
	setStreams(query, o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, word := range o.Command {
		query.Add("command", word)
	}
	return locateContainer("exec", pod, o.Container, query)
}

func locateAttach(pod *corev1.Pod, o *corev1.PodAttachOptions) (string, url.Values, error) {
	query := url.Values{}
	setStreams(query, o.Stdin, o.Stdout, o.Stderr, o.TTY)
	return locateContainer("attach", pod, o.Container, query)
}

func locatePortForward(pod *corev1.Pod, o *corev1.PodPortForwardOptions) (string, url.Values, error) {
	query := url.Values{}
	for _, port := range o.Ports {
		if port < 1 || port > 65535 {
			return "", nil, apierrors.NewBadRequest(fmt.Sprintf("port %d must be > 0 and < 65536", port))
		}
	}
	if len(o.Ports) > 0 {
		var ports []string
		for _, port := range o.Ports {
			ports = append(ports, strconv.Itoa(int(port)))
		}
		query.Add("port", strings.Join(ports, ","))
	}
	return fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query, nil
}

func translateExec(o *corev1.PodExecOptions) translator.Options {
	return translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
}

func translateAttach(o *corev1.PodAttachOptions) translator.Options {
	return translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
}

func setStreams(query url.Values, stdin, stdout, stderr, tty bool) {
	for name, set := range map[string]bool{
		corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty,
	} {
		if set {
			query.Set(name, "1")
		}
	}
}

func locateContainer(what string, pod *corev1.Pod, container string, query url.Values) (string, url.Values, error) {
	container, err := chooseContainer(pod, container)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/%s/%s/%s/%s", what, pod.Namespace, pod.Name, container), query, nil
}

// chooseContainer checks the container that a client names, and takes the only one if it names none.
func chooseContainer(pod *corev1.Pod, container string) (string, error) {
	names := func(containers []corev1.Container) []string {
		var out []string
		for _, c := range containers {
			out = append(out, c.Name)
		}
		return out
	}
	main, initial := names(pod.Spec.Containers), names(pod.Spec.InitContainers)
	var ephemeral []string
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if container == "" {
		if len(main) == 1 {
			return main[0], nil
		}
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, main)
		if len(initial) > 0 {
			message += fmt.Sprintf(" or one of the init containers: %v", initial)
		}
		if len(ephemeral) > 0 {
			message += fmt.Sprintf(" or one of the ephemeral containers: %v", ephemeral)
		}
		return "", apierrors.NewBadRequest(message)
	}
	if !slices.Contains(slices.Concat(main, initial, ephemeral), container) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, pod.Name))
	}
	return container, nil
}

// log streams what a container has written.
type log struct {
	pods    *registry.Kind
	kubelet *kubeletclient.Client
}

var (
	_ rest.GetterWithOptions = &log{}
	_ rest.StorageMetadata   = &log{}
)

// New implements rest.Storage.
func (l *log) New() runtime.Object { return &corev1.Pod{} }

// Destroy implements rest.Storage; the store belongs to pods.
func (l *log) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (l *log) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (l *log) ProducesObject(string) any { return "" }

// OverrideMetricsVerb counts following a log as a long-running request.
func (l *log) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// NewGetOptions implements rest.GetterWithOptions.
func (l *log) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// Get implements rest.GetterWithOptions.
func (l *log) Get(ctx context.Context, name string, obj runtime.Object) (runtime.Object, error) {
	options, ok := obj.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", obj)
	}
	if errs := validateLogOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := podOf(ctx, l.pods, name)
	if err != nil {
		return nil, err
	}
	path, query, err := locateContainer("containerLogs", pod, options.Container, logQuery(options))
	if err != nil {
		return nil, err
	}
	streamer := &genericrest.LocationStreamer{
		ContentType: "text/plain", Flush: options.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" { // nothing has been written yet
		return streamer, nil
	}
	kubelet, err := l.kubelet.Connect(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	streamer.Location, streamer.Transport = kubelet.URL(path, query), kubelet.Transport
	if options.InsecureSkipTLSVerifyBackend {
		streamer.Transport = kubelet.Insecure
	}
	return streamer, nil
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	query := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			query.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			query.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		query.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		query.Set("stream", *o.Stream)
	}
	return query
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if o.Stream != nil {
		known := []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}
		if !slices.Contains(known, *o.Stream) {
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, known))
		} else if o.TailLines != nil && *o.Stream != corev1.LogStreamAll {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	}
	return errs
}
