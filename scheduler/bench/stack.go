package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
)

// stack is a control plane: an API server with its etcd, and a scheduler.
type stack struct {
	dir       string
	port      int
	client    kubernetes.Interface
	processes []*exec.Cmd // the scheduler last
}

// startTimeout is how long an API server may take until it is ready, on a loaded machine.
const startTimeout = 2 * time.Minute

// schedulerConfig lifts kube-scheduler's client-side limit, as scheduler_perf does: ours has none.
const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 5000, burst: 5000}
leaderElection: {leaderElect: false}
`

// startAPI starts the API server and waits until it is ready.
func (s *settings) startAPI(ctx context.Context, c combination) (_ *stack, err error) {
	dir, err := os.MkdirTemp("", "scheduler-bench")
	if err != nil {
		return nil, err
	}
	k := &stack{dir: dir}
	defer func() {
		if err != nil {
			k.stop("")
		}
	}()
	pkiDir := filepath.Join(dir, "pki")
	if err := pki.EnsureServer(pkiDir, pki.Server{Name: "bench", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	k.port = ports[0]
	args := []string{
		"--secure-port=" + strconv.Itoa(k.port), "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + dir, "--client-ca-file=" + pkiDir + "/ca.crt", "--tls-cert-file=" + pkiDir + "/apiserver.crt",
		"--tls-private-key-file=" + pkiDir + "/apiserver.key", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + pkiDir + "/sa.pub",
		"--service-account-signing-key-file=" + pkiDir + "/sa.key",
		// As scheduler_perf: pods bring their priorities, and nobody makes their service account or reports nodes ready.
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority",
	}
	program := filepath.Join(s.bin, "apiserver")
	if c.api == "upstream" {
		program = filepath.Join(s.upstream, "kube-apiserver")
		url, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1]), fmt.Sprintf("http://127.0.0.1:%d", ports[2])
		err = k.start(filepath.Join(s.upstream, "etcd"), "etcd", "--data-dir="+dir+"/etcd", "--listen-client-urls="+url, "--advertise-client-urls="+url,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--log-level=error")
		args = append(args, "--etcd-servers="+url)
	} else {
		args = append(args, "--data-dir="+dir+"/etcd")
	}
	if err == nil {
		err = k.start(program, "apiserver", args...)
	}
	if err != nil {
		return nil, err
	}
	return k, k.connect(ctx)
}

func (k *stack) connect(ctx context.Context) error {
	path, err := k.user("admin", pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}})
	if err != nil {
		return err
	}
	config, err := apiclient.FromKubeconfig(path, "scheduler-bench")
	if err != nil {
		return err
	}
	if k.client, err = apiclient.Clientset(config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("API server is not ready: %w", err)
		case <-tick.C:
		}
	}
}

func (k *stack) user(name string, request pki.Request) (string, error) {
	pair, err := pki.EnsureClient(filepath.Join(k.dir, "pki"), name, request, time.Now())
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(filepath.Join(k.dir, "pki", "ca.crt"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(k.dir, name+".conf")
	return path, kubeconfig.Write(path, kubeconfig.Entry{
		Name: name, Server: fmt.Sprintf("https://127.0.0.1:%d", k.port), CAPEM: ca, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM,
	})
}

// startScheduler starts the combination's scheduler.
func (s *settings) startScheduler(k *stack, c combination) error {
	path, err := k.user("scheduler", pki.Request{CommonName: "system:kube-scheduler"})
	if err != nil {
		return err
	}
	config := filepath.Join(k.dir, "scheduler.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, schedulerConfig, path), 0o600); err != nil {
		return err
	}
	if c.scheduler == "upstream" {
		return k.start(filepath.Join(s.upstream, "kube-scheduler"), "scheduler", "--config="+config, "--secure-port=0", "--leader-elect=false")
	}
	return k.start(filepath.Join(s.bin, "scheduler"), "scheduler", "--kubeconfig="+path, "--secure-port=0", "--leader-elect=false")
}

// start runs a program until stop; it dies with us.
func (k *stack) start(program, name string, args ...string) error {
	log, err := os.Create(filepath.Join(k.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()                         // the process has its own handle
	command := exec.Command(program, args...) //nolint:noctx // stop ends it
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	k.processes = append(k.processes, command)
	return nil
}

// stop ends all, the scheduler first, and removes what they left but for the logs, if they are wanted.
func (k *stack) stop(logs string) {
	for _, v := range slices.Backward(k.processes) {
		_ = v.Process.Kill() // it fails only for a process that has ended
		_ = v.Wait()
	}
	if logs != "" {
		found, _ := filepath.Glob(filepath.Join(k.dir, "*.log")) // the pattern is valid
		for _, path := range found {
			if data, err := os.ReadFile(path); err == nil && os.MkdirAll(logs, 0o755) == nil {
				_ = os.WriteFile(filepath.Join(logs, filepath.Base(path)), data, 0o600) // logs are a courtesy
			}
		}
	}
	_ = os.RemoveAll(k.dir)
}

// usage is what a process has used.
type usage struct {
	cpu time.Duration
	rss int64 // bytes, the most it ever had
}

const ticksPerSecond = 100 // USER_HZ, the same on every architecture that Go supports

// used reads the usage of the last n processes together.
func (k *stack) used(last int) (usage, error) {
	var total usage
	for _, p := range k.processes[len(k.processes)-last:] {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			return usage{}, err
		}
		// The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th fields after it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			return usage{}, errors.New("process state is unreadable")
		}
		for _, text := range fields[11:13] {
			ticks, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return usage{}, err
			}
			total.cpu += time.Duration(ticks) * time.Second / ticksPerSecond
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if err != nil {
			return usage{}, err
		}
		for line := range strings.Lines(string(status)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
				total.rss += kib << 10
			}
		}
	}
	return total, nil
}

// freePorts asks the kernel for ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
