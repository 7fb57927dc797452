package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"keelson.dev/internal/pki"
)

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// etcd runs a member in dir until the returned function is called.
func etcd(t *testing.T, dir string) func() {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.ZapLoggerBuilder = dir, embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(dir, socketName)}}
	cfg.AdvertiseClientUrls, cfg.ListenPeerUrls = cfg.ListenClientUrls, nil
	member := must(embed.StartEtcd(cfg))(t)
	select {
	case <-member.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd does not start")
	}
	return member.Close
}

// files describes a tree: what of it a restore has to bring back.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	ok(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info := must(entry.Info())(t)
		stat := info.Sys().(*syscall.Stat_t)
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text += " " + string(must(os.ReadFile(path))(t)) + " " + info.ModTime().UTC().Format(time.RFC3339)
			if stat.Nlink > 1 {
				text += " linked"
			}
		case info.Mode()&fs.ModeSymlink != 0:
			text += " " + must(os.Readlink(path))(t)
		}
		buffer := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "user.note", buffer); err == nil {
			text += " note " + string(buffer[:n])
		}
		found[must(filepath.Rel(root, path))(t)] = text
		return nil
	}))
	return found
}

// TestSaveAndRestore takes objects, keys and files through a file and back.
func TestSaveAndRestore(t *testing.T) {
	ctx, work := t.Context(), t.TempDir()
	data, keys, volume := filepath.Join(work, "data"), filepath.Join(work, "pki"), filepath.Join(work, "volume")
	ok(t, pki.EnsureServer(keys, pki.Server{Name: "server-1"}, time.Now()), os.MkdirAll(filepath.Join(volume, "below"), 0o750))
	ok(t, os.WriteFile(filepath.Join(volume, "below/file"), []byte("content"), 0o640), os.Chmod(filepath.Join(volume, "below/file"), 0o4750),
		os.Chtimes(filepath.Join(volume, "below/file"), time.Now(), time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)),
		os.Link(filepath.Join(volume, "below/file"), filepath.Join(volume, "name")), os.Symlink("/nowhere", filepath.Join(volume, "link")),
		os.WriteFile(filepath.Join(volume, "left"), nil, 0o600), unix.Mkfifo(filepath.Join(volume, "fifo"), 0o600))
	if err := unix.Setxattr(filepath.Join(volume, "below"), "user.note", []byte("kept"), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}

	ok(t, os.MkdirAll(data, 0o700))
	stop := etcd(t, data)
	client, end, err := Dial(data)
	ok(t, err)
	encryption := must(encryptionconfig.LoadEncryptionConfig(ctx, filepath.Join(keys, pki.EncryptionConfig), false, "test"))(t)
	put := func(key string, object runtime.Object, encrypt bool) {
		t.Helper()
		must(client.Put(ctx, key, string(stored(t, key, object, encryption, encrypt))))(t)
	}
	meta := metav1.ObjectMeta{Name: "x", Namespace: "default"}
	put("/registry/configmaps/default/x", &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "1", "b": "1"}}, false)
	put("/registry/configmaps/default/x", &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "2", "b": "1"}}, false)
	put("/registry/configmaps/default/gone", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, false)
	must(client.Delete(ctx, "/registry/configmaps/default/gone"))(t)
	put("/registry/secrets/default/x", &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": []byte("hidden")}}, true)
	must(client.Put(ctx, "/registry/masterleases/172.30.0.2", "k8s\x00"))(t)
	must(client.Put(ctx, "/registry/example.com/things/x", `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"}}`))(t)

	file := filepath.Join(work, "snapshots/s"+Suffix)
	save := func(file string) {
		t.Helper()
		db := must(FetchDatabase(ctx, client, file))(t)
		ok(t, Save(file, Manifest{Cluster: "c", Taken: time.Now()}, db, []Tree{
			PKI(keys), {Dir: volume, Prefix: "nodes/worker-1", Leave: func(rel string) bool { return rel == "left" }}, {Dir: filepath.Join(work, "absent"), Prefix: "nodes/absent"},
		}), os.Remove(db))
	}
	save(file)
	put("/registry/configmaps/default/x", &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "3", "c": "1"}}, false)
	put("/registry/secrets/default/x", &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": []byte("hidden too")}}, true)
	put("/registry/events/default/x", &corev1.Event{ObjectMeta: meta}, false)
	must(client.Delete(ctx, "/registry/example.com/things/x"))(t)
	later := filepath.Join(work, "snapshots/later"+Suffix)
	save(later)
	end()
	stop()

	before, after := must(ReadObjects(ctx, file, filepath.Join(work, "before")))(t), must(ReadObjects(ctx, later, filepath.Join(work, "after")))(t)
	changes := Diff(before, after, false)
	want := []Change{
		{Sign: "-", Object: "example.com/v1 Thing x"},
		{Sign: "~", Object: "v1 ConfigMap default/x", Fields: []string{`data.a: "2" → "3"`, `data.b: "1" → (none)`, `data.c: (none) → "1"`}},
		{Sign: "~", Object: "v1 Secret default/x", Fields: []string{"data.k: sha256:3cde22f30459 → sha256:3411a66116df"}},
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes: %s", diff)
	}
	if all := Diff(before, after, true); len(all) != 4 {
		t.Errorf("with what changes all the time: %v", all)
	}

	s := must(Open(file))(t)
	defer s.Close()
	if s.Objects != 4 || s.Revision != 8 || s.Cluster != "c" {
		t.Errorf("manifest: %+v", s.Manifest)
	}
	to := filepath.Join(work, "to")
	ok(t, os.MkdirAll(filepath.Join(to, "pki"), 0o755), os.MkdirAll(filepath.Join(to, "nodes"), 0o755))
	ok(t, s.Extract(func(first string) string {
		return map[string]string{"etcd.db": to, "pki": filepath.Join(to, "pki"), "nodes": filepath.Join(to, "nodes")}[first]
	}))
	ok(t, os.Remove(filepath.Join(volume, "left")))
	if diff := cmp.Diff(files(t, volume), files(t, filepath.Join(to, "nodes/worker-1"))); diff != "" {
		t.Errorf("the volume: %s", diff)
	}
	for _, name := range pki.Shared {
		if !bytes.Equal(must(os.ReadFile(filepath.Join(keys, name)))(t), must(os.ReadFile(filepath.Join(to, "pki", name)))(t)) {
			t.Errorf("%s differs", name)
		}
	}
	if _, err := os.Stat(filepath.Join(to, "pki/apiserver.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that can be made anew is in the snapshot: %v", err)
	}

	restored := filepath.Join(work, "restored")
	ok(t, RestoreDatabase(ctx, filepath.Join(to, "etcd.db"), restored))
	defer etcd(t, restored)()
	client, end, err = Dial(restored)
	ok(t, err)
	defer end()
	answer := must(client.Get(ctx, "/registry/configmaps/default/x"))(t)
	if len(answer.Kvs) != 1 || !bytes.Contains(answer.Kvs[0].Value, []byte("2")) {
		t.Errorf("the object after the restore: %v", answer.Kvs)
	}
	if leases := must(client.Get(ctx, "/registry/masterleases/172.30.0.2"))(t); leases.Count != 0 {
		t.Error("the address of the saved cluster's server is in the restored one")
	}
	if answer.Header.Revision <= revisionBump {
		t.Errorf("revision %d: clients may have seen a later one", answer.Header.Revision)
	}
}

// stored is an object as an API server stores it.
func stored(t *testing.T, key string, object runtime.Object, encryption *encryptionconfig.EncryptionConfiguration, encrypt bool) []byte {
	t.Helper()
	codec := clientscheme.Codecs.EncoderForVersion(protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme), corev1.SchemeGroupVersion)
	data := must(runtime.Encode(codec, object))(t)
	if encrypt {
		data = must(encryption.Transformers[schema.GroupResource{Resource: "secrets"}].TransformToStorage(t.Context(), data, value.DefaultContext(key)))(t)
		if !bytes.HasPrefix(data, encrypted) {
			t.Fatalf("%s is stored as %.20q", key, data)
		}
	}
	return data
}

// TestExtractStaysBelow feeds archives that lead elsewhere.
func TestExtractStaysBelow(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"a path upwards":          {{Name: "nodes/../../out", Typeflag: tar.TypeReg}},
		"a link upwards":          {{Name: "nodes/up", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "nodes/up/out", Typeflag: tar.TypeReg}},
		"a link to the root":      {{Name: "nodes/root", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "nodes/root/tmp/keelson-out", Typeflag: tar.TypeReg}},
		"a second name of a file": {{Name: "nodes/again", Typeflag: tar.TypeLink, Linkname: "nodes/../../secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			inside := filepath.Join(outside, "a/b")
			ok(t, os.MkdirAll(inside, 0o755), os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
			var buffer bytes.Buffer
			archive := tar.NewWriter(&buffer)
			for _, head := range entries {
				head.Mode = 0o644
				ok(t, archive.WriteHeader(&head))
			}
			ok(t, archive.Close())
			s := &Snapshot{archive: tar.NewReader(&buffer)}
			if err := s.Extract(func(string) string { return inside }); err == nil {
				t.Error("it was extracted")
			}
			for _, path := range []string{filepath.Join(outside, "out"), "/tmp/keelson-out"} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s was written", path)
				}
			}
		})
	}
}

// TestOpen says what is wrong with a file.
func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	ok(t, os.WriteFile(path, []byte("not a snapshot"), 0o600))
	if _, err := Open(path); err == nil {
		t.Error("opened what is none")
	}
}

func TestDiffOfNothing(t *testing.T) {
	node := &unstructured.Unstructured{Object: map[string]any{
		"kind": "Node", "metadata": map[string]any{"name": "n"}, "status": map[string]any{"conditions": []any{map[string]any{"lastHeartbeatTime": "1"}}},
	}}
	later := node.DeepCopy()
	conditions, _, _ := unstructured.NestedSlice(later.Object, "status", "conditions")
	conditions[0].(map[string]any)["lastHeartbeatTime"] = "2"
	ok(t, unstructured.SetNestedSlice(later.Object, conditions, "status", "conditions"))
	before, after := map[string]*unstructured.Unstructured{"n": node}, map[string]*unstructured.Unstructured{"n": later}
	if changes := Diff(before, after, false); len(changes) != 0 {
		t.Errorf("a heartbeat is told: %v", changes)
	}
	if changes := Diff(before, after, true); len(changes) != 1 {
		t.Errorf("with all: %v", changes)
	}
}
