package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/lab/node"
	"keelson.dev/lab/snapshot"
)

// Level says how bad a finding is.
type Level string

// A problem stops something from working; a warning will, or may.
const (
	Fine    Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Finding is what one check found, and what to do about it.
type Finding struct {
	Level   Level  `json:"level"`
	Check   string `json:"check"`
	Message string `json:"message"`
}

// What counts as too little, too much or too late.
const (
	minMemory    = 512 << 20 // bytes that a small cluster wants to be available
	minInotify   = 256       // instances of inotify: each node's programs hold about ten
	soonExpired  = 30 * 24 * time.Hour
	slowEtcd     = 200 * time.Millisecond // for one read that a quorum agrees to
	fullEtcd     = 0.8                    // of its quota
	restless     = 5                      // restarts of a container
	examinePause = 10 * time.Second       // is what a check may take
)

// examination collects findings.
type examination struct {
	*Cluster
	findings []Finding
}

func (e *examination) add(level Level, check, format string, args ...any) {
	e.findings = append(e.findings, Finding{Level: level, Check: check, Message: fmt.Sprintf(format, args...)})
}

// fine adds that all is well with what has been checked since there were so many findings.
func (e *examination) fine(since int, check, format string, args ...any) {
	if len(e.findings) == since {
		e.add(Fine, check, format, args...)
	}
}

// Examine checks the machine, and the cluster of that name if there is one. It changes nothing.
func Examine(ctx context.Context, name, bundle string) []Finding {
	e := &examination{}
	e.machine(ctx, bundle)
	c, err := View(name, bundle)
	if errors.Is(err, ErrNotFound) {
		e.add(Fine, "cluster", "%v", err)
		return e.findings
	}
	if err != nil {
		e.add(Problem, "cluster", "%v", err)
		return e.findings
	}
	e.Cluster = c
	if len(c.Members) == 0 {
		e.add(Problem, "cluster", "%s was never made whole: keelson --name %[1]s up", c.Name)
		return e.findings
	}
	if c.Restoring != "" {
		e.add(Problem, "cluster", "it is half restored: keelson --name %s snapshot restore %s", c.Name, c.Restoring)
		return e.findings
	}
	for _, check := range []func(context.Context){e.power, e.daemons, e.certificates, e.etcd, e.api, e.snapshots} {
		bounded, cancel := context.WithTimeout(ctx, examinePause)
		check(bounded)
		cancel()
	}
	return e.findings
}

func (e *examination) machine(ctx context.Context, bundle string) {
	if os.Geteuid() != 0 {
		e.add(Problem, "root", "a cluster needs root, and so do some of these checks: try again with sudo")
	}
	for _, check := range preflight {
		if err := check.run(bundle); err != nil {
			e.add(Problem, check.name, "%v", err)
		} else {
			e.add(Fine, check.name, "as it should be")
		}
	}
	if out, err := exec.CommandContext(ctx, "nft", "list", "tables").CombinedOutput(); err != nil {
		e.add(Problem, "nftables", "the kernel refuses nftables, by which Services work: %s", strings.TrimSpace(string(out)))
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		if free := available(); free < minMemory {
			e.add(Warning, "memory", "%d MiB are available; a cluster wants %d MiB", free>>20, minMemory>>20)
		} else {
			e.add(Fine, "memory", "%d MiB of %d MiB are available", free>>20, info.Totalram*uint64(info.Unit)>>20)
		}
	}
	for path, least := range map[string]int{"/proc/sys/fs/inotify/max_user_instances": minInotify, "/proc/sys/fs/inotify/max_user_watches": 8192} {
		text, err := os.ReadFile(path)
		if value, _ := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && value < least {
			e.add(Warning, "inotify", "%s is %d: sysctl -w %s=%d", path, value,
				strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", "."), least)
		}
	}
}

// available is the memory in bytes that programs can get without swapping, as the kernel estimates it.
func available() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.ParseUint(fields[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

func (e *examination) power(ctx context.Context) {
	since := len(e.findings)
	for _, m := range e.Members {
		status, err := e.Node(m).Status(ctx)
		switch {
		case err != nil:
			e.add(Problem, "power", "%s: %v", m.Name, err)
		case status == node.Off && m.Off:
			e.add(Warning, "power", "%s has been switched off: keelson node start %[1]s", m.Name)
		case status == node.Off:
			e.add(Problem, "power", "%s is off: keelson --name %s up", m.Name, e.Name)
		case status == node.Frozen:
			e.add(Problem, "power", "%s is frozen: keelson node thaw %[1]s", m.Name)
		}
	}
	e.fine(since, "power", "all nodes run")
}

func (e *examination) daemons(context.Context) {
	since := len(e.findings)
	for _, d := range append(e.fleetDaemons(), e.registryDaemon()) {
		if pid, err := d.pid(); err != nil || pid == 0 {
			e.add(Problem, d.name, "it does not run; see %s, and keelson --name %s up starts it", filepath.Join(d.dir, d.name+".log"), e.Name)
		}
	}
	e.fine(since, "registry", "it runs")
}

// certificates looks at every certificate of the cluster on this machine, and at the modes of keys.
func (e *examination) certificates(context.Context) {
	since, first := len(e.findings), time.Time{}
	dirs := []string{e.PKIDir()}
	for _, m := range e.Members {
		dirs = append(dirs, e.Node(m).StatePath(pkiDir), e.Node(m).StatePath("/var/lib/kubelet/pki"))
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // a node has not been up yet, or has just renewed it
				}
				return err
			}
			switch info, err := os.Stat(path); { // of what a link leads to
			case err != nil || info.IsDir():
			case filepath.Ext(path) == ".key" && info.Mode().Perm()&0o077 != 0:
				e.add(Problem, "keys", "others than root may read %s: chmod 600 %[1]s", path)
			case filepath.Ext(path) == ".crt" || entry.Name() == "kubelet-client-current.pem" || entry.Name() == "kubelet-server-current.pem":
				if end := e.certificate(path); first.IsZero() || end.Before(first) {
					first = end
				}
			}
			return nil //nolint:nilerr // what cannot be looked at is no certificate
		})
		if err != nil {
			e.add(Problem, "certificates", "%v", err)
		}
	}
	e.fine(since, "certificates", "the first one expires on %s; they are renewed at a start in their last quarter", first.Format(time.DateOnly))
}

// certificate returns when a certificate ends.
func (e *examination) certificate(path string) time.Time {
	data, err := os.ReadFile(path)
	if err != nil {
		e.add(Problem, "certificates", "%v", err)
		return time.Time{}
	}
	block, _ := pem.Decode(data)
	if block == nil {
		e.add(Problem, "certificates", "%s is no certificate", path)
		return time.Time{}
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		e.add(Problem, "certificates", "%s: %v", path, err)
		return time.Time{}
	}
	left, level := time.Until(certificate.NotAfter), Warning
	if left < 0 {
		level = Problem
	}
	if left < soonExpired {
		e.add(level, "certificates", "%s ends on %s: keelson --name %s down --keep, then up, renews it", path,
			certificate.NotAfter.Format(time.DateOnly), e.Name)
	}
	return certificate.NotAfter
}

// etcd asks the database of every server that is on.
func (e *examination) etcd(ctx context.Context) {
	if e.Etcd != nil {
		if err := e.member(ctx, "external", e.dialDatabase); err != nil {
			e.add(Problem, "etcd", "%s: %v", strings.Join(e.Etcd.Servers, ", "), err)
		}
		return
	}
	for _, m := range e.servers() {
		if status, err := e.Node(m).Status(ctx); err != nil || status != node.Running {
			continue
		}
		dial := func(context.Context) (*clientv3.Client, func(), error) {
			return snapshot.Dial(e.Node(m).StatePath(dataDir))
		}
		if err := e.member(ctx, m.Name, dial); err != nil {
			e.add(Problem, "etcd", "%s: %v; see %s", m.Name, err, filepath.Join(e.Node(m).StatePath("/var/log"), "keelson-server.log"))
		}
	}
}

func (e *examination) member(ctx context.Context, name string, dial func(context.Context) (*clientv3.Client, func(), error)) error {
	client, end, err := dial(ctx)
	if err != nil {
		return err
	}
	defer end()
	started := time.Now()
	if _, err := client.Get(ctx, "health"); err != nil {
		return err
	}
	took, since := time.Since(started), len(e.findings)
	status, err := client.Status(ctx, client.Endpoints()[0])
	if err != nil {
		return err
	}
	if took > slowEtcd {
		e.add(Warning, "etcd", "%s: a read took %s: the disk, or the machine, is too busy", name, took.Round(time.Millisecond))
	}
	if quota := status.DbSizeQuota; quota > 0 && float64(status.DbSizeInUse) > fullEtcd*float64(quota) {
		e.add(Problem, "etcd", "%s: %d of %d MiB are used: delete objects, then etcdctl compact and defrag", name, status.DbSizeInUse>>20, quota>>20)
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return err
	}
	for _, alarm := range alarms.Alarms {
		if alarm.Alarm != pb.AlarmType_NONE {
			e.add(Problem, "etcd", "alarm %s of member %x: mend its cause, then etcdctl alarm disarm", alarm.Alarm, alarm.MemberID)
		}
	}
	for _, text := range status.Errors {
		if len(alarms.Alarms) == 0 {
			e.add(Problem, "etcd", "%s: %s", name, text)
		}
	}
	e.fine(since, "etcd", "%s: revision %d, %.1f MiB, a read takes %s", name, status.Header.Revision, float64(status.DbSize)/(1<<20), took.Round(100*time.Microsecond))
	return nil
}

// api asks the API server how it is, and what it knows of nodes, pods and add-ons.
func (e *examination) api(ctx context.Context) {
	server, err := e.connect()
	if err != nil {
		e.add(Problem, "api", "%v", err)
		return
	}
	body, err := server.client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").Do(ctx).Raw()
	if err != nil {
		failed := []string{err.Error()}
		for line := range strings.Lines(string(body)) {
			if strings.HasPrefix(line, "[-]") {
				failed = append(failed, strings.TrimSpace(line))
			}
		}
		e.add(Problem, "api", "%s is not ready: %s", e.APIServer(), strings.Join(failed, "; "))
		return
	}
	e.add(Fine, "api", "%s is ready", e.APIServer())
	for _, check := range []func(context.Context, *api) error{e.nodes, e.pods, e.addons} {
		if err := check(ctx, server); err != nil {
			e.add(Problem, "api", "%v", err)
		}
	}
}

func (e *examination) nodes(ctx context.Context, api *api) error {
	nodes, err := api.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	since := len(e.findings)
	for i := range nodes.Items {
		n := &nodes.Items[i]
		for _, condition := range n.Status.Conditions {
			if (condition.Type == corev1.NodeReady) == (condition.Status == corev1.ConditionTrue) {
				continue
			}
			level := Problem
			if condition.Type != corev1.NodeReady {
				level = Warning
			}
			e.add(level, "nodes", "%s: %s is %s: %s", n.Name, condition.Type, condition.Status, condition.Message)
		}
		if n.Spec.Unschedulable {
			e.add(Warning, "nodes", "%s takes no pods: kubectl uncordon %[1]s", n.Name)
		}
	}
	e.fine(since, "nodes", "all %d are Ready", len(nodes.Items))
	return nil
}

func (e *examination) pods(ctx context.Context, api *api) error {
	pods, err := api.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	since := len(e.findings)
	for i := range pods.Items {
		if trouble := troubleOf(&pods.Items[i]); trouble != "" {
			pod := &pods.Items[i]
			e.add(Warning, "pods", "%s/%s: %s: kubectl -n %[1]s describe pod %[2]s", pod.Namespace, pod.Name, trouble)
		}
	}
	e.fine(since, "pods", "none of %d is in trouble", len(pods.Items))
	return nil
}

// troubleOf says what keeps a pod from its work, if anything does.
func troubleOf(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return "it has no node: " + condition.Message
		}
	}
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if waiting := status.State.Waiting; waiting != nil && waiting.Reason != "ContainerCreating" && waiting.Reason != "PodInitializing" {
			return fmt.Sprintf("container %s: %s", status.Name, waiting.Reason)
		}
		if status.RestartCount >= restless && !status.Ready && status.State.Terminated == nil {
			return fmt.Sprintf("container %s has been restarted %d times", status.Name, status.RestartCount)
		}
	}
	return ""
}

// addons looks at what the cluster needs, and at the add-ons that it has.
func (e *examination) addons(ctx context.Context, api *api) error {
	wanted := [][2]string{{metav1.NamespaceSystem, "coredns"}}
	enabled, err := e.Addons(ctx)
	if err != nil {
		return err
	}
	for _, addon := range enabled {
		if addon.Enabled {
			wanted = append(wanted, [2]string{addon.namespace, addon.Name})
		}
	}
	for _, one := range wanted {
		deployment, err := api.client.AppsV1().Deployments(one[0]).Get(ctx, one[1], metav1.GetOptions{})
		switch {
		case err != nil:
			e.add(Problem, "add-ons", "%s: %v: keelson --name %s up brings it back", one[1], err, e.Name)
		case deployment.Status.AvailableReplicas < *deployment.Spec.Replicas:
			e.add(Problem, "add-ons", "%s: %d of %d replicas are available: kubectl -n %s get pods", one[1],
				deployment.Status.AvailableReplicas, *deployment.Spec.Replicas, one[0])
		default:
			e.add(Fine, "add-ons", "%s is available", one[1])
		}
	}
	return nil
}

func (e *examination) snapshots(context.Context) {
	files, err := Snapshots()
	if err != nil {
		e.add(Problem, "snapshots", "%v", err)
		return
	}
	var newest time.Time
	for _, file := range files {
		s, err := snapshot.Open(file)
		if err != nil {
			e.add(Warning, "snapshots", "%v", err)
			continue
		}
		if s.Cluster == e.Name && s.Taken.After(newest) {
			newest = s.Taken
		}
		s.Close()
	}
	if newest.IsZero() {
		e.add(Fine, "snapshots", "there is none: keelson --name %s snapshot save", e.Name)
	} else {
		e.add(Fine, "snapshots", "the newest was taken on %s", newest.Format(time.DateTime))
	}
}
