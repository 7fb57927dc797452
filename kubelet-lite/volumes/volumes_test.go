package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/kubelet-lite/objects"
)

// TestMain runs the tests in a mount namespace of their own, so that nothing they mount can stay behind.
func TestMain(m *testing.M) {
	const inside = "VOLUMES_TEST_IN_NAMESPACE"
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getuid() == 0 {
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				panic(err)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		panic(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func startManager(t *testing.T, client *fake.Clientset) *Manager {
	t.Helper()
	m := New(Config{Client: client, NodeName: "n", RootDir: t.TempDir(), Objects: objects.New(client)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := unmountAll(m.cfg.RootDir); err != nil {
			t.Error(err)
		}
	})
	return m
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1", Labels: map[string]string{"a": "1"}},
		Spec: corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{
			Name: "c", TerminationMessagePath: "/dev/termination-log",
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("64Mi")}},
		}}},
	}
	for _, v := range volumes {
		c := &pod.Spec.Containers[0]
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	return pod
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.After(5 * time.Second); !ok(); {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLifeOfAPod(t *testing.T) {
	needRoot(t)
	ctx := t.Context()
	client := fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm", UID: "1", ResourceVersion: "1"}, Data: map[string]string{"k": "v1", "gone": "x"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"pw": []byte("secret")}},
	)
	m := startManager(t, client)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "keep"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := podWith(
		corev1.Volume{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, DefaultMode: new(int32(0o400))}}},
		corev1.Volume{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "pw", Path: "a/b", Mode: new(int32(0o440))}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
		corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}},
	)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(1234))}
	pod.Spec.Containers[0].VolumeMounts[4].SubPath = "new/dir"
	if err := m.SetUp(ctx, pod); err != nil {
		t.Fatal(err)
	}
	volumes := filepath.Join(m.cfg.RootDir, "pods/uid-1/volumes")
	cm := filepath.Join(volumes, "kubernetes.io~configmap/cm")
	all := filepath.Join(volumes, "kubernetes.io~projected/all")
	got := map[string]string{}
	for name, path := range map[string]string{
		"cm": cm, "key": filepath.Join(cm, "k"), "item": filepath.Join(all, "a/b"),
		"mem": filepath.Join(volumes, "kubernetes.io~empty-dir/mem"), "disk": filepath.Join(volumes, "kubernetes.io~empty-dir/disk"),
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = fmt.Sprintf("%v %d", info.Mode(), gidOf(info))
	}
	want := map[string]string{
		"cm": "dgrwxrwxrwx 1234", "key": "-r--r----- 1234", "item": "-r--r----- 1234", "mem": "dgrwxrwxrwx 1234", "disk": "dgrwxrwxrwx 1234",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var fsInfo unix.Statfs_t
	if err := unix.Statfs(filepath.Join(volumes, "kubernetes.io~empty-dir/mem"), &fsInfo); err != nil || fsInfo.Type != unix.TMPFS_MAGIC || fsInfo.Blocks*uint64(fsInfo.Bsize) != 64<<20 {
		t.Errorf("memory emptyDir: %v, type %x, %d blocks", err, fsInfo.Type, fsInfo.Blocks)
	}

	mounts, _, err := m.ContainerMounts(pod, &pod.Spec.Containers[0], MountEnv{PodIPs: []string{"10.0.0.9"}, Hostname: "p"})
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]*runtimeapi.Mount{}
	for _, mount := range mounts {
		byPath[mount.ContainerPath] = mount
	}
	if !byPath["/cm"].Readonly || byPath["/disk"].Readonly {
		t.Errorf("projected volumes are read-only, emptyDirs are not: %v", mounts)
	}
	if hosts := content(t, byPath["/etc/hosts"].HostPath); !strings.Contains(hosts, "\n10.0.0.9\tp\n") {
		t.Errorf("hosts: %s", hosts)
	}
	if err := os.WriteFile(filepath.Join(byPath["/host"].HostPath, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if content(t, filepath.Join(host, "new/dir/f")) != "x" {
		t.Error("subPath is not the host's directory")
	}

	// A change of the ConfigMap reaches the files, the stale key vanishes, and so does a label change reach the downward API.
	update := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm", UID: "1", ResourceVersion: "2"}, Data: map[string]string{"k": "v2"}}
	if _, err := client.CoreV1().ConfigMaps("ns").Update(ctx, update, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new content", func() bool {
		_, err := os.Lstat(filepath.Join(cm, "gone"))
		return content(t, filepath.Join(cm, "k")) == "v2" && errors.Is(err, fs.ErrNotExist)
	})
	relabelled := pod.DeepCopy()
	relabelled.Labels["a"] = "2"
	m.Refresh(ctx, relabelled)
	eventually(t, "new label", func() bool { return content(t, filepath.Join(all, "labels")) == `a="2"` })

	// What a predecessor left behind is found on disk.
	successor := New(Config{Client: client, RootDir: m.cfg.RootDir, Objects: objects.New(client)})
	if err := successor.Orphans(ctx, func(uid types.UID) bool { return uid == "uid-1" }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cm); err != nil {
		t.Errorf("a known pod was torn down: %v", err)
	}
	if err := successor.Orphans(ctx, func(types.UID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.podDir("uid-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pod directory remains: %v", err)
	}
	if content(t, filepath.Join(host, "keep")) != "data" || content(t, filepath.Join(host, "new/dir/f")) != "x" {
		t.Error("the host's files are gone")
	}
	if left, _ := mountsUnder(filepath.Join(m.cfg.RootDir, "pods")); len(left) > 0 {
		t.Errorf("mounts remain: %v", left)
	}
}

func TestMissingObjectWakesThePod(t *testing.T) {
	needRoot(t)
	ctx := t.Context()
	client := fake.NewClientset()
	m := startManager(t, client)
	woken := make(chan types.UID, 10)
	m.cfg.Wake = func(uid types.UID) { woken <- uid }
	pod := podWith(corev1.Volume{Name: "x", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "y"}}})
	err := m.SetUp(ctx, pod)
	if want := `MountVolume.SetUp failed for volume "x" : secret "y" not found`; err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "y", ResourceVersion: "2"}}
	if _, err := client.CoreV1().Secrets("ns").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-woken:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was woken")
	}
	if err := m.SetUp(ctx, pod); err != nil {
		t.Fatal(err)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	needRoot(t)
	volume, outside := t.TempDir(), t.TempDir()
	for link, target := range map[string]string{"abs": outside, "up": "../..", "ok": "inner"} {
		if err := os.Symlink(target, filepath.Join(volume, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(volume, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Manager{cfg: Config{RootDir: t.TempDir()}}
	t.Cleanup(func() {
		if err := unmountAll(m.cfg.RootDir); err != nil {
			t.Error(err)
		}
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	for path, ok := range map[string]bool{"abs": false, "up": false, "abs/new": false, "up/new": false, "ok": true, "ok/new/dir": true, "fresh": true} {
		_, err := m.bindSubPath(pod, "c", 0, "v", &mounted{path: volume}, path)
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("something was made outside: %v", entries)
	}
}

func TestExpandSubPath(t *testing.T) {
	env := []*runtimeapi.KeyValue{{Key: "NAME", Value: []byte("pod-1")}, {Key: "ABS", Value: []byte("/etc")}, {Key: "UP", Value: []byte("../x")}}
	type result struct {
		Path string
		Bad  bool
	}
	for name, tc := range map[string]struct {
		mount corev1.VolumeMount
		want  result
	}{
		"none":     {corev1.VolumeMount{}, result{Path: "."}},
		"plain":    {corev1.VolumeMount{SubPath: "a//b/"}, result{Path: "a/b"}},
		"expanded": {corev1.VolumeMount{SubPathExpr: "logs/$(NAME)"}, result{Path: "logs/pod-1"}},
		"unknown":  {corev1.VolumeMount{SubPathExpr: "$(`whoami`)"}, result{Bad: true}},
		"absolute": {corev1.VolumeMount{SubPathExpr: "$(ABS)"}, result{Bad: true}},
		"up":       {corev1.VolumeMount{SubPathExpr: "$(UP)"}, result{Bad: true}},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := expandSubPath(&tc.mount, env)
			if diff := cmp.Diff(tc.want, result{path, err != nil}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		"unset, absent":       {filepath.Join(dir, "no"), "", true},
		"directory":           {dir, corev1.HostPathDirectory, true},
		"directory is file":   {file, corev1.HostPathDirectory, false},
		"directory absent":    {filepath.Join(dir, "no"), corev1.HostPathDirectory, false},
		"directory created":   {filepath.Join(dir, "d/e"), corev1.HostPathDirectoryOrCreate, true},
		"file":                {file, corev1.HostPathFile, true},
		"file is directory":   {dir, corev1.HostPathFileOrCreate, false},
		"file created":        {filepath.Join(dir, "f"), corev1.HostPathFileOrCreate, true},
		"char device":         {"/dev/null", corev1.HostPathCharDev, true},
		"null is no block":    {"/dev/null", corev1.HostPathBlockDev, false},
		"file is no socket":   {file, corev1.HostPathSocket, false},
		"unknown type is bad": {file, "Thing", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := checkHostPath(&corev1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind}); (err == nil) != tc.ok {
				t.Errorf("ok=%v, got %v", tc.ok, err)
			}
		})
	}
}

func TestRefreshTime(t *testing.T) {
	now := time.Unix(0, 0)
	for life, want := range map[time.Duration]time.Duration{time.Hour: 48 * time.Minute, 72 * time.Hour: 24 * time.Hour, 10 * time.Minute: 8 * time.Minute} {
		if got := refreshTime(now, now.Add(life)).Sub(now); got != want {
			t.Errorf("life %v: refresh after %v, want %v", life, got, want)
		}
	}
}
