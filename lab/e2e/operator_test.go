//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"keelson.dev/internal/pki"
)

// TestOperator runs an operator that is made with controller-runtime in the cluster, twice: one instance leads, and the other takes over
// when the leader is killed. Its webhooks, behind a Service, complete, check and convert. What it does is seen by kubectl.
func TestOperator(t *testing.T) {
	loadOperator(t)
	namespace := fmt.Sprintf("e2e-operator-%d", time.Now().UnixNano()%100000)
	must(t, kubectl("create", "namespace", namespace))
	files := operatorFiles(t, namespace)
	t.Cleanup(func() {
		_ = kubectl("delete", "-f", files, "--wait=false")
		_ = kubectl("delete", "namespace", namespace, "--wait=false")
	})
	must(t, kubectl("apply", "-f", files))
	must(t, kubectl("wait", "--for=condition=Established", "crd/sites.e2e.keelson.dev", "--timeout=30s"))
	must(t, kubectl("rollout", "status", "-n", namespace, "deployment/operator", "--timeout=90s"))
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := kubectlCommand("logs", "-n", namespace, "-l", "app=operator", "--prefix").CombinedOutput()
			t.Logf("operator:\n%s", out)
		}
	})
	has := func(want, kind, path string) {
		t.Helper()
		waitFor(t, time.Minute, func() error {
			out, err := kubectlCommand("get", "-n", namespace, kind, "web", "--ignore-not-found", "-o", "jsonpath="+path).Output()
			if err != nil || string(out) != want {
				return fmt.Errorf("%s of %s: want %q, got %q (%w)", path, kind, want, out, err)
			}
			return nil
		})
	}
	says := func(want string, args ...string) {
		t.Helper()
		out, _ := kubectlCommand(append([]string{"-n", namespace}, args...)...).CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("kubectl %s: want %q, got:\n%s", strings.Join(args, " "), want, out)
		}
	}
	site := func(version, spec string) string {
		file := filepath.Join(t.TempDir(), "site.json")
		must(t, os.WriteFile(file, fmt.Appendf(nil,
			`{"apiVersion":"e2e.keelson.dev/%s","kind":"Site","metadata":{"name":"web"},"spec":%s}`, version, spec), 0o600))
		return file
	}
	// What is refused, with the reason, and what is warned of.
	says(`The Site "web" is invalid: spec.replicas: Invalid value: 6: more than a site needs`, "create", "-f", site("v1", `{"replicas":6}`))
	says("Warning: a site without replicas answers nobody", "create", "--dry-run=server", "-f", site("v1", `{"replicas":0}`))
	// The old version is converted, and then completed and checked like the new one.
	says(`spec.replicas: Invalid value: 7: more than a site needs`, "create", "-f", site("v1beta1", `{"instances":7}`))
	says("Warning: sites of v1beta1 are old", "apply", "-f", site("v1beta1", `{"instances":1}`))
	has("registry.keelson.dev/demo:1 1", "site", "{.spec.image} {.spec.replicas}")
	has("1 1", "site", "{.status.readyReplicas} {.status.observedGeneration}")
	has("Site web true", "deployment", "{.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name} {.metadata.ownerReferences[0].controller}")

	must(t, kubectl("patch", "site", "-n", namespace, "web", "--type=merge", "-p", `{"spec":{"replicas":3}}`))
	has("3 2", "site", "{.status.readyReplicas} {.status.observedGeneration}")
	has("e2e.keelson.dev/v1beta1 3", "sites.v1beta1.e2e.keelson.dev", "{.apiVersion} {.spec.instances}")
	must(t, kubectl("delete", "deployment", "-n", namespace, "web"))
	has("3", "deployment", "{.status.readyReplicas}")

	// The leader is killed without a word, so its lease has to run out; webhooks are served by both.
	holder, err := kubectlCommand("get", "lease", "-n", namespace, "sites.e2e.keelson.dev", "-o", "jsonpath={.spec.holderIdentity}").Output()
	must(t, err)
	leader, _, _ := strings.Cut(string(holder), "_")
	must(t, kubectl("delete", "pod", "-n", namespace, leader, "--force", "--grace-period=0"))
	waitFor(t, time.Minute, func() error {
		return kubectl("patch", "site", "-n", namespace, "web", "--type=merge", "-p", `{"spec":{"replicas":2}}`)
	})
	has("2 3", "site", "{.status.readyReplicas} {.status.observedGeneration}")

	must(t, kubectl("annotate", "site", "-n", namespace, "web", "e2e.keelson.dev/keep=yes"))
	says(`admission webhook "check.e2e.keelson.dev" denied the request: site web is to be kept`, "delete", "site", "web")
	must(t, kubectl("annotate", "site", "-n", namespace, "web", "e2e.keelson.dev/keep-"))
	must(t, kubectl("delete", "site", "-n", namespace, "web"))
	has("", "deployment", "{.metadata.name}") // by the garbage collector
}

// loadOperator builds the operator and gives the machine's registry an image of it.
func loadOperator(t *testing.T) {
	t.Helper()
	root := t.TempDir()
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(root, "operator"), "./operator")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build operator: %v: %s", err, out)
	}
	packed := filepath.Join(t.TempDir(), "layer.tar")
	if out, err := exec.Command("tar", "-C", root, "-cf", packed, "operator").CombinedOutput(); err != nil {
		t.Fatalf("pack operator: %v: %s", err, out)
	}
	layer, err := tarball.LayerFromFile(packed)
	must(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", runtime.GOARCH, []string{"/operator"}
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	tag, err := name.NewTag("registry.keelson.dev/e2e-operator:1")
	must(t, err)
	archive := filepath.Join(t.TempDir(), "operator.tar")
	must(t, tarball.WriteToFile(archive, tag, image))
	if out, err := command("image", "load", archive).CombinedOutput(); err != nil {
		t.Fatalf("load operator: %v: %s", err, out)
	}
}

// operatorFiles writes the operator's manifests, with a certificate for its Service in the namespace, and returns their folder.
func operatorFiles(t *testing.T, namespace string) string {
	t.Helper()
	authority, ca, err := pki.NewAuthority("operator", time.Now())
	must(t, err)
	host := "operator." + namespace + ".svc"
	pair, err := authority.Issue(pki.Request{
		CommonName: host, DNSNames: []string{host}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	must(t, err)
	encode := base64.StdEncoding.EncodeToString
	fill := strings.NewReplacer("NAMESPACE", namespace, "CA_BUNDLE", encode(ca.CertPEM), "TLS_CERT", encode(pair.CertPEM), "TLS_KEY", encode(pair.KeyPEM))
	dir := t.TempDir()
	for _, file := range []string{"crd.yaml", "operator.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata/operator", file))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(fill.Replace(string(text))), 0o600))
	}
	return dir
}
