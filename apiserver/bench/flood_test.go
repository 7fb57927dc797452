package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bench"
	"keelson.dev/internal/pki"
)

var (
	floodFor      = flag.Duration("flood.for", 0, "how long TestFlood floods; 0 skips it")
	floodBin      = flag.String("flood.bin", "../../bin", "folder of apiserver and upstream/{kube-apiserver,etcd}")
	floodFlags    = flag.String("flood.flags", "", "more flags of the server, separated by spaces")
	floodUpstream = flag.Bool("flood.upstream", false, "flood upstream's server instead")
)

const (
	floodRate    = 10000 // requests a second
	floodWatches = 5000
	// floodStreams is what goes over one connection of the flood: no server allows less by default.
	floodStreams = 100
	// floodRequests is how many requests the flood has waiting for their answers at most; a server at its end makes it slower.
	floodRequests = 3000
	// within is what another client may wait for an answer.
	within = time.Second
	// floodKubeconfig is the variable that makes this program the flood.
	floodKubeconfig = "FLOOD_KUBECONFIG"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(floodKubeconfig); path != "" {
		if err := runFlood(path); err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestFlood lets one client flood a server, and measures what another of the same priority level meets meanwhile.
func TestFlood(t *testing.T) {
	if *floodFor == 0 {
		t.Skip("make flood runs it")
	}
	ctx := t.Context()
	whose := bench.Keelson
	if *floodUpstream {
		whose = bench.Upstream
	}
	plane, err := bench.Programs{Ours: *floodBin, Upstream: filepath.Join(*floodBin, "upstream")}.Start(ctx, whose, strings.Fields(*floodFlags)...)
	must(t, err)
	defer plane.Stop("")
	other := tenant(ctx, t, plane, "other")
	// A process of its own, which leaves the processors to the server: the client that it stands for is on another machine.
	flood := exec.CommandContext(ctx, "nice", "-n", "10", os.Args[0])
	flood.Env = append(os.Environ(), floodKubeconfig+"="+kubeconfigOf(t, plane, "flood"))
	tenant(ctx, t, plane, "flood")
	flood.Stderr = os.Stderr
	end, err := flood.StdinPipe()
	must(t, err)
	said, err := flood.StdoutPipe()
	must(t, err)
	must(t, flood.Start())
	reports := json.NewDecoder(said)
	var before, after report
	must(t, reports.Decode(&before)) // all watches are open
	used, err := plane.All()
	must(t, err)

	waited := use(ctx, t, other, *floodFor)

	now, err := plane.All()
	must(t, err)
	must(t, end.Close())
	must(t, reports.Decode(&after))
	must(t, flood.Wait())
	seconds := floodFor.Seconds()
	t.Logf("figures: flood of %.0f requests/s, answers/s: %.0f of 2xx, %.0f refused (429), %.0f others; %d watches open, %.0f events/s, %d watches ended; server: %.1f cores, %d MB",
		float64(after.Sent)/seconds, float64(after.Served)/seconds, float64(after.Refused)/seconds, float64(after.Failed)/seconds,
		after.Watches, float64(after.Events-before.Events)/seconds, after.Ended-before.Ended, (now.CPU-used.CPU).Seconds()/seconds, now.RSS>>20)
	for _, what := range slices.Sorted(maps.Keys(waited)) {
		latencies := waited[what]
		slices.Sort(latencies)
		n := len(latencies)
		p99 := latencies[n*99/100]
		t.Logf("figures: the other's %d %s: p50 %.0f ms, p99 %.0f ms, max %.0f ms", n, what, ms(latencies[n/2]), ms(p99), ms(latencies[n-1]))
		if p99 > within {
			t.Errorf("%s: one in hundred takes longer than %s", what, within)
		}
	}
	// Watches that do not keep up are ended, and opened again by the flood a second later.
	if after.Served == 0 || after.Watches+after.Ended-before.Ended < floodWatches*9/10 {
		t.Errorf("that was no flood: %+v", after)
	}
}

// use reads and writes ConfigMaps one after the other for a time, and returns how long each kind of request took.
func use(ctx context.Context, t *testing.T, client kubernetes.Interface, long time.Duration) map[string][]time.Duration {
	t.Helper()
	api := client.CoreV1().ConfigMaps("other")
	waited := map[string][]time.Duration{}
	var mu sync.Mutex
	timed := func(what string, do func() error) error {
		began := time.Now()
		err := do()
		mu.Lock()
		defer mu.Unlock()
		waited[what] = append(waited[what], time.Since(began))
		return err
	}
	var group sync.WaitGroup
	loop := func(do func(i int) error) {
		group.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			deadline := time.Now().Add(long)
			for i := 0; time.Now().Before(deadline); i++ {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
				<-tick.C
			}
		})
	}
	loop(func(i int) error {
		if i%2 == 0 {
			return timed("lists", func() error {
				_, err := api.List(ctx, metav1.ListOptions{})
				return err
			})
		}
		return timed("gets", func() error {
			_, err := api.Get(ctx, "c-0", metav1.GetOptions{})
			return err
		})
	})
	loop(func(i int) error {
		name := fmt.Sprintf("w-%d", i/2)
		if i%2 == 0 {
			return timed("creations", func() error {
				_, err := api.Create(ctx, configMap(name), metav1.CreateOptions{})
				return err
			})
		}
		return timed("deletions", func() error { return api.Delete(ctx, name, metav1.DeleteOptions{}) })
	})
	group.Wait()
	return waited
}

func kubeconfigOf(t *testing.T, plane *bench.Plane, name string) string {
	t.Helper()
	path, err := plane.User(name, pki.Request{CommonName: name})
	must(t, err)
	return path
}

// tenant makes a user with a namespace of the same name and 100 ConfigMaps in it, and returns its client.
func tenant(ctx context.Context, t *testing.T, plane *bench.Plane, name string) kubernetes.Interface {
	t.Helper()
	core, rbac := plane.Client.CoreV1(), plane.Client.RbacV1()
	_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	meta := metav1.ObjectMeta{Name: name}
	_, err = rbac.Roles(name).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"},
	}}}, metav1.CreateOptions{})
	must(t, err)
	_, err = rbac.RoleBindings(name).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}, metav1.CreateOptions{})
	must(t, err)
	for i := range 100 {
		_, err := core.ConfigMaps(name).Create(ctx, configMap(fmt.Sprintf("c-%d", i)), metav1.CreateOptions{})
		must(t, err)
	}
	config, err := apiclient.FromKubeconfig(kubeconfigOf(t, plane, name), "other")
	must(t, err)
	client, err := apiclient.Clientset(config)
	must(t, err)
	// A role that was granted just now is known to the server a little later.
	must(t, wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().ConfigMaps(name).Get(ctx, "c-0", metav1.GetOptions{})
		return err == nil, nil
	}))
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// report is what the flood tells on its standard output: once when its watches are open, once at its end.
type report struct {
	Sent, Served, Refused, Failed int64 // requests and answers
	Watches, Ended, Events        int64 // open now, those that the server ended, pieces of what they told
}

// flood is the client that does not restrain itself.
type flood struct {
	sent, served, refused, failed atomic.Int64
	watches, ended, events        atomic.Int64

	base    string
	clients []*http.Client // a connection each
}

// runFlood opens the watches, and then asks and writes at its rate until its standard input ends.
func runFlood(kubeconfig string) error {
	config, err := apiclient.FromKubeconfig(kubeconfig, "flood")
	if err != nil {
		return err
	}
	f := &flood{base: config.Host + "/api/v1/namespaces/flood/configmaps"}
	for range (floodWatches + floodRequests) / floodStreams {
		c := rest.CopyConfig(config)
		c.Dial = (&net.Dialer{}).DialContext // one of its own: transports of equal configurations are shared
		client, err := apiclient.HTTPClient(c)
		if err != nil {
			return err
		}
		f.clients = append(f.clients, client)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range floodWatches {
		go f.watch(ctx, f.clients[i/floodStreams])
	}
	open, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	err = wait.PollUntilContextCancel(open, 50*time.Millisecond, true, func(context.Context) (bool, error) { return f.watches.Load() == floodWatches, nil })
	if err != nil {
		return fmt.Errorf("%d of %d watches are open: %w", f.watches.Load(), floodWatches, err)
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(f.report()); err != nil {
		return err
	}
	enough, end := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	f.pour(ctx, enough.Done())
	return out.Encode(f.report())
}

func (f *flood) report() report {
	return report{
		Sent: f.sent.Load(), Served: f.served.Load(), Refused: f.refused.Load(), Failed: f.failed.Load(),
		Watches: f.watches.Load(), Ended: f.ended.Load(), Events: f.events.Load(),
	}
}

// pour sends requests at the rate until it is enough. Where all that may wait for answers do, what was due is not made up for later.
func (f *flood) pour(ctx context.Context, enough <-chan struct{}) {
	work := make(chan int)
	for i := range floodRequests {
		client := f.clients[floodWatches/floodStreams+i/floodStreams]
		go func() {
			for n := range work {
				f.ask(ctx, client, n)
			}
		}()
	}
	defer close(work)
	const each = time.Millisecond
	tick := time.NewTicker(each)
	defer tick.Stop()
	began, n := time.Now(), 0
	for {
		select {
		case <-enough:
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * floodRate); n < due; n++ {
			select {
			case work <- n:
				f.sent.Add(1)
			default:
				n = due
			}
		}
	}
}

// ask reads seven times in ten, lists once and writes twice.
func (f *flood) ask(ctx context.Context, client *http.Client, n int) {
	method, url, body := http.MethodGet, fmt.Sprintf("%s/c-%d", f.base, n%100), ""
	switch n % 10 {
	case 0:
		url = f.base
	case 1, 2:
		method, body = http.MethodPatch, fmt.Sprintf(`{"data":{"key":"%d"}}`, n)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		f.failed.Add(1)
		return
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	response, err := client.Do(request)
	if err != nil {
		f.failed.Add(1)
		return
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	switch {
	case response.StatusCode == http.StatusTooManyRequests:
		f.refused.Add(1)
	case err != nil || response.StatusCode != http.StatusOK:
		f.failed.Add(1)
	default:
		f.served.Add(1)
	}
}

// watch keeps one watch open until ctx ends.
func (f *flood) watch(ctx context.Context, client *http.Client) {
	for ctx.Err() == nil {
		if err := f.watchOnce(ctx, client); err != nil && ctx.Err() == nil {
			select { // or the watches would not leave each other room to be opened
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

var errRefused = errors.New("refused")

func (f *flood) watchOnce(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base+"?watch=true", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errRefused
	}
	f.watches.Add(1)
	defer f.watches.Add(-1)
	defer f.ended.Add(1)
	buffer := make([]byte, 4<<10)
	for {
		if _, err := response.Body.Read(buffer); err != nil {
			return err
		}
		f.events.Add(1)
	}
}
