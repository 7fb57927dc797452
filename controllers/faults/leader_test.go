package faults

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/controllers"
)

var (
	killFor = flag.Duration("faults.kill", 0, "how long TestKillLeader kills; 0 skips it")
	manager = flag.String("faults.manager", "", "the program controller-manager")
)

const (
	killEvery  = 10 * time.Second
	candidates = 2
	// Shorter than the default, so that there is a leader for most of the time between two kills.
	leaseDuration = 4 * time.Second
)

// TestKillLeader kills the process that holds the lease again and again while people meddle, and then checks every promise at every
// revision. All has to be as people want it 30 s after the last kill.
func TestKillLeader(t *testing.T) {
	if *killFor == 0 {
		t.Skip("-faults.kill is 0; make kill-leader runs this")
	}
	ns := namespace(t)
	ctx, stop := context.WithCancel(t.Context())
	h, recording := record(ctx, t, shared.client, ns)
	a := newAgents(shared.client, ns)
	go a.run(ctx)
	p := &people{client: shared.client, namespace: ns, history: h, rand: rand.New(rand.NewPCG(*seed, 0))}
	p.create(ctx, t)
	troop := newTroop(t)

	busy, rest := context.WithTimeout(ctx, *killFor)
	defer rest()
	var group sync.WaitGroup
	group.Go(func() { p.live(busy, t, 100*time.Millisecond, 20*time.Second) })
	kills := 0
	for next := time.After(killEvery); busy.Err() == nil; {
		select {
		case <-busy.Done():
		case <-next:
			next = time.After(killEvery)
			if troop.killLeader(ctx, t) {
				kills++
			}
		}
	}
	group.Wait()
	began := time.Now()
	if err := eventually(30*time.Second, func() error { return p.settled(ctx) }); err != nil {
		t.Errorf("30 s after the last kill: %v", err)
	}
	t.Logf("%d leaders killed; settled %s after the end", kills, time.Since(began).Round(100*time.Millisecond))
	if kills < int(*killFor/killEvery)/2 {
		t.Errorf("only %d leaders were there to be killed", kills)
	}
	troop.end()
	stop()
	recording.Wait()
	report(t, check(h, a.ended, leaseDuration+10*time.Second), len(h.changes))
}

// troop is the controller managers that wait for the lease, by the name that each has in it.
type troop struct {
	kubeconfig, logs string

	mu        sync.Mutex
	processes map[string]*exec.Cmd
	ended     bool
	group     sync.WaitGroup
}

func newTroop(t *testing.T) *troop {
	t.Helper()
	tr := &troop{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), logs: t.TempDir(), processes: map[string]*exec.Cmd{}}
	must(t, clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "c",
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "c"}},
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: shared.loopback.Host, CertificateAuthorityData: shared.loopback.CAData, TLSServerName: shared.loopback.ServerName}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"c": {Token: shared.loopback.BearerToken}},
	}, tr.kubeconfig))
	for n := range candidates {
		tr.start(t, n)
	}
	t.Cleanup(tr.end)
	return tr
}

// start runs a candidate, and another one when it ends.
func (tr *troop) start(t *testing.T, n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.ended {
		return
	}
	log, err := os.CreateTemp(tr.logs, strconv.Itoa(n))
	must(t, err)
	command := exec.Command(*manager, "--kubeconfig="+tr.kubeconfig, "--controllers="+strings.Join(workloads, ","),
		"--leader-elect-lease-duration="+leaseDuration.String(), "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms")
	command.Stdout, command.Stderr = log, log
	must(t, command.Start())
	tr.processes[strconv.Itoa(command.Process.Pid)] = command
	tr.group.Go(func() {
		_ = command.Wait()
		tr.mu.Lock()
		delete(tr.processes, strconv.Itoa(command.Process.Pid))
		tr.mu.Unlock()
		tr.start(t, n)
	})
}

// killLeader kills the holder of the lease; false if nobody of us holds it.
func (tr *troop) killLeader(ctx context.Context, t *testing.T) bool {
	lease, err := shared.client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, controllers.LeaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false
	}
	must(t, err)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	command := tr.processes[holder(lease)]
	return command != nil && command.Process.Kill() == nil
}

// holder is the process that holds the lease: its identity ends in its number.
func holder(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	parts := strings.Split(*lease.Spec.HolderIdentity, "_")
	return parts[len(parts)-1]
}

func (tr *troop) end() {
	tr.mu.Lock()
	tr.ended = true
	for _, command := range tr.processes {
		_ = command.Process.Kill()
	}
	tr.mu.Unlock()
	tr.group.Wait()
}
