// Package bench is what benchmarks share: a control plane of processes on loopback, and what processes use.
package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
)

// Programs are the folders of the programs that are measured: ours, and upstream's.
type Programs struct{ Ours, Upstream string }

// Keelson and Upstream are whose a program is.
const (
	Keelson  = "keelson"
	Upstream = "upstream"
)

// Plane is a control plane: an API server with its etcd, and what is started on it.
type Plane struct {
	Dir       string // of its state, certificates and logs
	Client    kubernetes.Interface
	Config    *rest.Config
	port      int
	processes []*exec.Cmd
}

// startTimeout is how long an API server may take until it is ready, on a loaded machine.
const startTimeout = 2 * time.Minute

// Start starts the API server that is named with further flags, and returns when it is ready.
func (p Programs) Start(ctx context.Context, whose string, flags ...string) (_ *Plane, err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	k := &Plane{Dir: dir}
	defer func() {
		if err != nil {
			k.Stop("")
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
	}
	args = append(args, flags...)
	program := filepath.Join(p.Ours, "apiserver")
	if whose == Upstream {
		program = filepath.Join(p.Upstream, "kube-apiserver")
		url, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1]), fmt.Sprintf("http://127.0.0.1:%d", ports[2])
		err = k.Run(filepath.Join(p.Upstream, "etcd"), "etcd", "--data-dir="+dir+"/etcd", "--listen-client-urls="+url, "--advertise-client-urls="+url,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--log-level=error")
		args = append(args, "--etcd-servers="+url)
	} else {
		args = append(args, "--data-dir="+dir+"/etcd")
	}
	if err == nil {
		err = k.Run(program, "apiserver", args...)
	}
	if err != nil {
		return nil, err
	}
	return k, k.connect(ctx)
}

func (k *Plane) connect(ctx context.Context) error {
	path, err := k.User("admin", pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}})
	if err != nil {
		return err
	}
	if k.Config, err = apiclient.FromKubeconfig(path, "bench"); err != nil {
		return err
	}
	if k.Client, err = apiclient.Clientset(k.Config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
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

// User returns the path of a kubeconfig for a user.
func (k *Plane) User(name string, request pki.Request) (string, error) {
	pair, err := pki.EnsureClient(filepath.Join(k.Dir, "pki"), name, request, time.Now())
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(filepath.Join(k.Dir, "pki", "ca.crt"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(k.Dir, name+".conf")
	return path, kubeconfig.Write(path, kubeconfig.Entry{
		Name: name, Server: fmt.Sprintf("https://127.0.0.1:%d", k.port), CAPEM: ca, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM,
	})
}

// Run runs a program until Stop; it dies with us.
func (k *Plane) Run(program, name string, args ...string) error {
	log, err := os.Create(filepath.Join(k.Dir, name+".log"))
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

// Stop ends all, the last first, and removes what they left but for the logs, if they are wanted.
func (k *Plane) Stop(logs string) {
	for _, v := range slices.Backward(k.processes) {
		_ = v.Process.Kill() // it fails only for a process that has ended
		_ = v.Wait()
	}
	if logs != "" {
		found, _ := filepath.Glob(filepath.Join(k.Dir, "*.log")) // the pattern is valid
		for _, path := range found {
			if data, err := os.ReadFile(path); err == nil && os.MkdirAll(logs, 0o755) == nil {
				_ = os.WriteFile(filepath.Join(logs, filepath.Base(path)), data, 0o600) // logs are a courtesy
			}
		}
	}
	_ = os.RemoveAll(k.Dir)
}

// End ends the program that was run last, and returns the most memory, in bytes, that it or any of its children ever had.
func (k *Plane) End() int64 {
	last := k.processes[len(k.processes)-1]
	k.processes = k.processes[:len(k.processes)-1]
	_ = last.Process.Kill() // it fails only for a process that has ended
	_ = last.Wait()         // it was killed
	usage, ok := last.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

// Last is what the last n programs that were run have used together.
func (k *Plane) Last(n int) (Usage, error) {
	var pids []int
	for _, p := range k.processes[len(k.processes)-n:] {
		pids = append(pids, p.Process.Pid)
	}
	return UsageOf(pids)
}

// All is what all programs have used together.
func (k *Plane) All() (Usage, error) { return k.Last(len(k.processes)) }

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
