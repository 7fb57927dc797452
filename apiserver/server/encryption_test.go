package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	encryption "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	kms "k8s.io/kms/pkg/service"

	"keelson.dev/apiserver/server"
	"keelson.dev/apiserver/storage"
	"keelson.dev/internal/pki"
)

// etcd is a member that a test runs beside its servers, reached over TLS as an external one.
type etcd struct {
	*clientv3.Client
	endpoint string
	dir      string // of its certificates
}

// newEtcd runs a member until the test ends.
func newEtcd(t *testing.T) *etcd {
	t.Helper()
	dir := t.TempDir()
	keys := filepath.Join(dir, "pki")
	if err := pki.EnsureServer(keys, pki.Server{Name: "etcd", DNSDomain: "cluster.local"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	free := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	e := &etcd{endpoint: "https://" + free.Addr().String(), dir: keys}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	member := must(storage.StartMember(t.Context(), storage.MemberOptions{
		DataDir: dir, Name: "default", UnsafeNoFsync: true, ListenClientURLs: []string{e.endpoint},
		CAFile: keys + "/etcd/ca.crt", CertFile: keys + "/etcd/server.crt", KeyFile: keys + "/etcd/server.key",
	}))(t)
	t.Cleanup(member.Close)
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(must(os.ReadFile(keys + "/etcd/ca.crt"))(t))
	pair := must(tls.LoadX509KeyPair(keys+"/apiserver-etcd-client.crt", keys+"/apiserver-etcd-client.key"))(t)
	e.Client = must(clientv3.New(clientv3.Config{
		Endpoints: []string{e.endpoint}, TLS: &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{pair}},
	}))(t)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// use points a server to the member.
func (e *etcd) use(o *server.Options) {
	transport := &o.Etcd.StorageConfig.Transport
	transport.ServerList = []string{e.endpoint}
	transport.TrustedCAFile = e.dir + "/etcd/ca.crt"
	transport.CertFile, transport.KeyFile = e.dir+"/apiserver-etcd-client.crt", e.dir+"/apiserver-etcd-client.key"
}

// stored returns what stands below a key of /registry.
func (e *etcd) stored(t *testing.T, key string) []byte {
	t.Helper()
	response := must(e.Get(t.Context(), "/registry/"+key))(t)
	if len(response.Kvs) != 1 {
		t.Fatalf("%s is not in etcd", key)
	}
	return response.Kvs[0].Value
}

const encryptionHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"

// provider is one provider of an EncryptionConfiguration with keys of 32 bytes; the first encrypts.
func provider(name string, keys ...string) string {
	var listed []string
	for _, key := range keys {
		secret := bytes.Repeat([]byte(key[len(key)-1:]), 32)
		listed = append(listed, fmt.Sprintf("{name: %s, secret: %s}", key, base64Of(secret)))
	}
	return fmt.Sprintf("{%s: {keys: [%s]}}", name, strings.Join(listed, ", "))
}

func encrypt(resource string, providers ...string) string {
	return fmt.Sprintf("- {resources: [%s], providers: [%s]}\n", resource, strings.Join(providers, ", "))
}

func TestEncryptionAtRest(t *testing.T) {
	encryption.EncryptionConfigFileChangePollDuration = 50 * time.Millisecond
	const identity = "{identity: {}}"
	config := file(t, "encryption.yaml", encryptionHead+
		encrypt("secrets", provider("aescbc", "key1"), identity)+
		encrypt("configmaps", provider("aesgcm", "key1"))+
		encrypt("serviceaccounts", provider("secretbox", "key1"))+
		encrypt("events", identity)+
		encrypt("'*.apiextensions.k8s.io'", provider("secretbox", "key2")))
	store := newEtcd(t)
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		store.use(o)
		o.Etcd.EncryptionProviderConfigFilepath = config
		o.Etcd.EncryptionProviderConfigAutomaticReload = true
	})
	ctx, core := t.Context(), s.client.CoreV1()
	const plain = "what nobody may read in the store"
	meta := metav1.ObjectMeta{Name: "x", Annotations: map[string]string{"note": plain}}
	must(core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{}))(t)
	must(core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}))(t)
	must(core.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}))(t)
	must(core.Endpoints("default").Create(ctx, &corev1.Endpoints{ObjectMeta: meta}, metav1.CreateOptions{}))(t)
	for key, prefix := range map[string]string{
		"secrets/default/x":            "k8s:enc:aescbc:v1:key1:",
		"configmaps/default/x":         "k8s:enc:aesgcm:v1:key1:",
		"serviceaccounts/default/x":    "k8s:enc:secretbox:v1:key1:",
		"services/endpoints/default/x": "k8s\x00",
	} {
		value := store.stored(t, key)
		if !bytes.HasPrefix(value, []byte(prefix)) {
			t.Errorf("%s begins with %.30q, want %q", key, value, prefix)
		}
		if readable := bytes.Contains(value, []byte(plain)); readable != (prefix == "k8s\x00") {
			t.Errorf("%s: readable in the store: %v", key, readable)
		}
	}

	// A new key encrypts, the former still decrypts; a write of the same content moves an object to the new key.
	rewrite := func() {
		secret := must(core.Secrets("default").Get(ctx, "x", metav1.GetOptions{}))(t)
		if secret.Annotations["note"] != plain {
			t.Fatalf("the secret reads %q", secret.Annotations["note"])
		}
		must(core.Secrets("default").Update(ctx, secret, metav1.UpdateOptions{}))(t)
	}
	becomes := func(prefix string, resources ...string) {
		t.Helper()
		write(t, config, encryptionHead+strings.Join(resources, ""))
		eventually(t, "secrets stored as "+prefix, func() bool {
			rewrite()
			return bytes.HasPrefix(store.stored(t, "secrets/default/x"), []byte(prefix))
		})
	}
	rest := encrypt("configmaps", provider("aesgcm", "key1")) + encrypt("serviceaccounts", provider("secretbox", "key1"))
	becomes("k8s:enc:aescbc:v1:key2:", encrypt("secrets", provider("aescbc", "key2", "key1")), rest)
	becomes("k8s:enc:secretbox:v1:key3:", encrypt("secrets", provider("secretbox", "key3"), provider("aescbc", "key2")), rest)
	becomes("k8s\x00", encrypt("secrets", identity, provider("secretbox", "key3")), rest)

	write(t, config, encryptionHead+encrypt("secrets", "{aescbc: {keys: [{name: bad, secret: AAAA}]}}"))
	code, body := s.raw(t, http.MethodGet, "/readyz/kms-providers", "", "", "")
	if code != http.StatusOK {
		t.Errorf("the check of the providers: %d %s", code, body)
	}
	eventually(t, "the failed reload in the metrics", func() bool {
		_, metrics := s.raw(t, http.MethodGet, "/metrics", "", "", "")
		return strings.Contains(metrics, `apiserver_encryption_config_controller_automatic_reloads_total{apiserver_id_hash="`) &&
			strings.Contains(metrics, `status="failure"`)
	})
	rewrite() // the former configuration is still in use
}

// fakeKMS keeps data by XOR with a byte that belongs to the key: enough to tell ciphertext from plain text and keys from each other.
type fakeKMS struct {
	mu      sync.Mutex
	key     string
	healthz string
}

func (k *fakeKMS) set(key, healthz string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.healthz = key, healthz
}

func (k *fakeKMS) crypt(key string, data []byte) []byte {
	out := bytes.Clone(data)
	for i := range out {
		out[i] ^= key[len(key)-1]
	}
	return out
}

func (k *fakeKMS) Encrypt(_ context.Context, _ string, data []byte) (*kms.EncryptResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &kms.EncryptResponse{Ciphertext: k.crypt(k.key, data), KeyID: k.key}, nil
}

func (k *fakeKMS) Decrypt(_ context.Context, _ string, request *kms.DecryptRequest) ([]byte, error) {
	if !strings.HasPrefix(request.KeyID, "kek-") {
		return nil, errors.New("unknown key " + request.KeyID)
	}
	return k.crypt(request.KeyID, request.Ciphertext), nil
}

func (k *fakeKMS) Status(context.Context) (*kms.StatusResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &kms.StatusResponse{Version: "v2", Healthz: k.healthz, KeyID: k.key}, nil
}

func TestKMS(t *testing.T) {
	t.Parallel()
	plugin := &fakeKMS{key: "kek-1", healthz: "ok"}
	socket := filepath.Join(t.TempDir(), "kms.sock")
	service := kms.NewGRPCService(socket, time.Second, plugin)
	go func() {
		if err := service.ListenAndServe(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(service.Close)
	eventually(t, "the plugin's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	configuration := func(timeout string) string {
		return encryptionHead + encrypt("secrets", fmt.Sprintf("{kms: {apiVersion: v2, name: fake, endpoint: 'unix://%s', timeout: %s}}", socket, timeout))
	}
	config := file(t, "encryption.yaml", configuration("2s"))
	store := newEtcd(t)
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		store.use(o)
		o.Etcd.EncryptionProviderConfigFilepath = config
		o.Etcd.EncryptionProviderConfigAutomaticReload = true
	})
	ctx, secrets := t.Context(), s.client.CoreV1().Secrets("default")
	create := func(name string) []byte {
		t.Helper()
		data := map[string][]byte{"k": []byte("plain text")}
		must(secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{}))(t)
		value := store.stored(t, "secrets/default/"+name)
		if !bytes.HasPrefix(value, []byte("k8s:enc:kms:v2:fake:")) || bytes.Contains(value, []byte("plain text")) {
			t.Fatalf("stored as %.60q", value)
		}
		return value
	}
	if value := create("first"); !bytes.Contains(value, []byte("kek-1")) {
		t.Error("the key's name does not stand beside the data")
	}
	// The server asks the plugin once a minute which key is the current one, and at once when it loads a configuration.
	plugin.set("kek-2", "ok")
	write(t, config, configuration("3s"))
	n := 0
	eventually(t, "the new key in use", func() bool {
		n++
		return bytes.Contains(create(fmt.Sprint("later-", n)), []byte("kek-2"))
	})
	for _, name := range []string{"first", "later-1"} {
		if secret := must(secrets.Get(ctx, name, metav1.GetOptions{}))(t); string(secret.Data["k"]) != "plain text" {
			t.Errorf("%s reads %q", name, secret.Data["k"])
		}
	}
	check := func() int {
		code, _ := s.raw(t, http.MethodGet, "/healthz/kms-providers", "", "", "")
		return code
	}
	if code := check(); code != http.StatusOK {
		t.Errorf("a healthy plugin: %d", code)
	}
	plugin.set("kek-2", "no connection to the vault")
	eventually(t, "the sick plugin in the health check", func() bool { return check() == http.StatusInternalServerError })
	if code, body := s.raw(t, http.MethodGet, "/livez", "", "", ""); code != http.StatusOK {
		t.Errorf("a sick plugin must not have the server restarted: %d %s", code, body)
	}
	create("while-sick") // the data key outlives a short failure
}
