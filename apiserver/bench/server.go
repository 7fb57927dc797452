package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/apiclient"
)

// connections is how many clients share the work: one HTTP/2 connection carries 100 to 250 requests at a time, depending on the
// server, and is one queue.
const connections = 8

// server is what is measured. Its answers are not decoded: the client's work would be a large part of what a small machine does.
type server struct {
	name   string
	pids   []int
	config *rest.Config

	clients   []*rest.RESTClient
	namespace string
	serial    atomic.Int64
	filled    bool // with the many pods
}

func (s *server) setUp(ctx context.Context) error {
	for range connections {
		config := rest.CopyConfig(s.config)
		config.Dial = (&net.Dialer{}).DialContext // one of its own: transports of equal configurations are shared
		clientset, err := apiclient.Clientset(config)
		if err != nil {
			return err
		}
		client, ok := clientset.CoreV1().RESTClient().(*rest.RESTClient)
		if !ok {
			return errors.New("unexpected type of REST client")
		}
		s.clients = append(s.clients, client)
	}
	var ns corev1.Namespace
	// A role that was granted just now is known to the server a little later.
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		err := s.clients[0].Post().Resource("namespaces").Body(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}).Do(ctx).Into(&ns)
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("create a namespace: %w", err)
	}
	s.namespace = ns.Name
	err = s.create(ctx, 0, "serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create a service account: %w", err)
	}
	return nil
}

// tearDown deletes the namespace; without controllers its content stays, which a benchmark's cluster does not mind.
func (s *server) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.clients[0].Delete().Resource("namespaces").Name(s.namespace).Do(ctx).Error(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: delete the namespace:", err)
	}
}

func (s *server) client(i int) *rest.RESTClient { return s.clients[i%len(s.clients)] }

// name returns one that was not used yet.
func (s *server) newName() string { return fmt.Sprintf("n-%d", s.serial.Add(1)) }

func (s *server) create(ctx context.Context, worker int, resource string, obj runtime.Object) error {
	return s.client(worker).Post().Namespace(s.namespace).Resource(resource).Body(obj).Do(ctx).Error()
}

// page lists pods of the set and returns how many there were, and the token for more.
func (s *server) page(ctx context.Context, worker int, options metav1.ListOptions) (int, string, error) {
	body, err := s.client(worker).Get().Namespace(s.namespace).Resource("pods").VersionedParams(&options, scheme.ParameterCodec).DoRaw(ctx)
	if err != nil {
		return 0, "", err
	}
	return countItems(body)
}

// protobufPrefix stands before every protobuf object of the API.
const protobufPrefix = "k8s\x00"

var errProtobuf = errors.New("the list is no protobuf")

// countItems reads of a protobuf list only how many items it has, and its continue token.
func countItems(body []byte) (int, string, error) {
	var envelope runtime.Unknown
	rest, ok := strings.CutPrefix(string(body[:min(len(body), len(protobufPrefix))]), protobufPrefix)
	if !ok || rest != "" {
		return 0, "", errProtobuf
	}
	if err := envelope.Unmarshal(body[len(protobufPrefix):]); err != nil {
		return 0, "", err
	}
	const metadataTag, itemTag = 1<<3 | 2, 2<<3 | 2
	count, token := 0, ""
	for raw := envelope.Raw; len(raw) > 0; {
		length, n := binary.Uvarint(raw[1:])
		end := 1 + n + int(length)
		if n <= 0 || end > len(raw) {
			return 0, "", errProtobuf
		}
		switch raw[0] {
		case metadataTag:
			var meta metav1.ListMeta
			if err := meta.Unmarshal(raw[1+n : end]); err != nil {
				return 0, "", err
			}
			token = meta.Continue
		case itemTag:
			count++
		default:
			return 0, "", errProtobuf
		}
		raw = raw[end:]
	}
	return count, token, nil
}

// watch begins a watch of ConfigMaps and calls event for each event until ctx is done.
func (s *server) watch(ctx context.Context, i int, options metav1.ListOptions, event func()) error {
	options.Watch = true
	client := s.client(i)
	url := client.Get().Namespace(s.namespace).Resource("configmaps").VersionedParams(&options, scheme.ParameterCodec).URL()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	response, err := client.Client.Do(request) //nolint:bodyclose // the watch stays open until the benchmark ends
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return fmt.Errorf("watch: %s", response.Status)
	}
	go func() {
		defer response.Body.Close()
		var length [4]byte // before each frame
		for {
			if _, err := io.ReadFull(response.Body, length[:]); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, response.Body, int64(binary.BigEndian.Uint32(length[:]))); err != nil {
				return
			}
			event()
		}
	}()
	return nil
}

// each calls f for 0…n-1 by all workers and returns the errors.
func each(workers, n int, f func(worker, i int) error) error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = f(w, i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": "a value of an ordinary length, as there are many"}}
}
