//go:build e2e

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	clients = 4
	keys    = 4
	// epoch is how long a set of keys is used: an operation whose end nobody knows may take effect at any later time, and too many of
	// those make a history that cannot be checked.
	epoch = 30 * time.Second
	pace  = 40 * time.Millisecond // between two operations of a client
	// patience is how long a client waits for an answer.
	patience = 5 * time.Second
	// never is when an operation returns whose end nobody knows.
	never = int64(1) << 62
)

// operation is a read or a write of one key.
type operation struct {
	key   string
	write bool
	value string
}

// load is clients that read and write, and one that watches.
type load struct {
	client    kubernetes.Interface
	namespace string
	endWork   context.CancelFunc
	endWatch  context.CancelFunc
	working   sync.WaitGroup
	watching  sync.WaitGroup
	began     time.Time

	mu           sync.Mutex
	history      []porcupine.Operation
	acknowledged map[string]string // resource version: value
	seen         map[string]string
	out          []error // watches that went wrong
	longest      time.Duration
	lastWrite    time.Time
	unknown      int
}

// startLoad creates all keys, and starts the clients.
func startLoad(ctx context.Context, config *rest.Config, duration time.Duration) (*load, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	watchContext, endWatch := context.WithCancel(ctx)
	workContext, endWork := context.WithCancel(ctx)
	l := &load{
		client: client, namespace: "default", endWork: endWork, endWatch: endWatch, acknowledged: map[string]string{}, seen: map[string]string{},
	}
	for e := range int(duration/epoch) + 20 { // the last fault may take its time
		for k := range keys {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: keyName(e, k), Labels: map[string]string{"faults": "yes"}}, Data: map[string]string{"value": "0"}}
			if _, err := client.CoreV1().ConfigMaps(l.namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
				return nil, err
			}
		}
	}
	list, err := client.CoreV1().ConfigMaps(l.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	l.watching.Go(func() { l.watch(watchContext, list.ResourceVersion) })
	l.began, l.lastWrite = time.Now(), time.Now()
	for id := range clients {
		l.working.Go(func() { l.work(workContext, id) })
	}
	return l, nil
}

func keyName(epoch, key int) string { return fmt.Sprintf("key-%d-%d", epoch, key) }

func (l *load) work(ctx context.Context, id int) {
	random := rand.New(rand.NewPCG(*seed, uint64(id+1)))
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for number := 0; ; number++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		op := operation{
			key:   keyName(int(time.Since(l.began)/epoch), random.IntN(keys)),
			write: random.IntN(2) == 0, value: fmt.Sprintf("%d-%d", id, number),
		}
		called := time.Since(l.began).Nanoseconds()
		got, err := l.try(ctx, op)
		l.record(id, op, got, called, err)
	}
}

// try is not repeated by the client library: a write that is done twice would not be what the history says.
func (l *load) try(ctx context.Context, op operation) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	verb, api := "GET", l.client.CoreV1().RESTClient()
	if op.write {
		verb = "PUT"
	}
	request := api.Verb(verb).Namespace(l.namespace).Resource("configmaps").Name(op.key).MaxRetries(0)
	if op.write {
		request = request.Body(&corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: op.key, Namespace: l.namespace, Labels: map[string]string{"faults": "yes"}}, Data: map[string]string{"value": op.value},
		})
	}
	object := &corev1.ConfigMap{}
	return object, request.Do(ctx).Into(object)
}

func (l *load) record(id int, op operation, got *corev1.ConfigMap, called int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	done := porcupine.Operation{ClientId: id, Input: op, Call: called, Output: got.Data["value"], Return: now.Sub(l.began).Nanoseconds()}
	switch {
	case err == nil && op.write:
		l.acknowledged[got.ResourceVersion] = op.value
		l.longest = max(l.longest, now.Sub(l.lastWrite))
		l.lastWrite = now
	case err != nil && op.write:
		done.Return = never
		l.unknown++
	case err != nil:
		return // a read that failed says nothing
	}
	l.history = append(l.history, done)
}

// watch follows all keys, and goes on where it was when it is cut off.
func (l *load) watch(ctx context.Context, version string) {
	for ctx.Err() == nil {
		w, err := l.client.CoreV1().ConfigMaps(l.namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: version, LabelSelector: "faults=yes"})
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		for event := range w.ResultChan() {
			object, ok := event.Object.(*corev1.ConfigMap)
			if !ok {
				break // an error: begin again
			}
			l.see(event, object, version)
			version = object.ResourceVersion
		}
		w.Stop()
	}
}

func (l *load) see(event watch.Event, object *corev1.ConfigMap, last string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, _ := strconv.ParseUint(last, 10, 64)
	now, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil || now <= before || event.Type != watch.Modified {
		l.out = append(l.out, fmt.Errorf("%s at %s after %s", event.Type, object.ResourceVersion, last))
	}
	l.seen[object.ResourceVersion] = object.Data["value"]
}

// stop ends the clients, and the watch once it has told of all writes.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.endWork()
	l.working.Wait()
	for deadline := time.Now().Add(time.Minute); len(l.missing()) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("the watch has missed the writes at %v", l.missing())
			break
		}
	}
	l.endWatch()
	l.watching.Wait()
}

// missing are the versions of acknowledged writes that the watch has not told of.
func (l *load) missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []string
	for version, value := range l.acknowledged {
		if l.seen[version] != value {
			missing = append(missing, version)
		}
	}
	return missing
}

// register is one key: it has the value that was written last.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(operation).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "0" },
	Step: func(state, input, output any) (bool, any) {
		if op := input.(operation); op.write {
			return true, op.value
		}
		return state == output, state
	},
}

func (l *load) check(t *testing.T) {
	t.Helper()
	t.Logf("%d operations, %d writes acknowledged, of %d nobody knows; the longest time without an acknowledged write was %.1f s",
		len(l.history), len(l.acknowledged), l.unknown, l.longest.Seconds())
	for _, err := range l.out {
		t.Errorf("watch: %v", err)
	}
	if len(l.acknowledged) < 100 {
		t.Error("too few writes to tell anything")
	}
	if result := porcupine.CheckOperationsTimeout(register, l.history, 5*time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", result)
	}
	if l.longest > 45*time.Second {
		t.Errorf("for %s no write was acknowledged", l.longest)
	}
}
