package volumes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	testclock "k8s.io/utils/clock/testing"
)

// shown is what a container sees in a volume: path → content.
func shown(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var list func(string)
	list = func(sub string) {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			name := filepath.Join(sub, entry.Name())
			if strings.HasPrefix(name, "..") {
				continue
			}
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			} else if info.IsDir() {
				list(name)
			} else {
				out[name] = content(t, filepath.Join(dir, name))
			}
		}
	}
	list("")
	return out
}

func TestWriteAtomically(t *testing.T) {
	dir := t.TempDir()
	f := func(s string) file { return file{data: []byte(s), mode: 0o644} }
	for _, step := range []struct {
		name    string
		want    payload
		changed bool
	}{
		{"first", payload{"a": f("1"), "d/e/f": f("2"), "d/g": f("3")}, true},
		{"same", payload{"a": f("1"), "d/e/f": f("2"), "d/g": f("3")}, false},
		{"content", payload{"a": f("x"), "d/e/f": f("2"), "d/g": f("3")}, true},
		{"mode", payload{"a": {data: []byte("x"), mode: 0o400}, "d/e/f": f("2")}, true},
		{"name taken by a directory", payload{"a/b": f("1")}, true},
		{"empty", payload{}, true},
		{"still empty", payload{}, false},
	} {
		changed, err := writeAtomically(dir, step.want, owner{}, time.Now())
		if err != nil || changed != step.changed {
			t.Errorf("%s: changed=%v, %v", step.name, changed, err)
		}
		want := map[string]string{}
		for name, f := range step.want {
			want[name] = string(f.data)
		}
		if diff := cmp.Diff(want, shown(t, dir)); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
	// A crash before the swing leaves a directory and a link; the next write clears both away.
	if err := os.Mkdir(filepath.Join(dir, "..2020_01_01_00_00_00.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", filepath.Join(dir, dataLinkTmp)); err != nil {
		t.Fatal(err)
	}
	if _, err := writeAtomically(dir, payload{"n": f("1")}, owner{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 { // ..data, its directory, n
		t.Errorf("left: %v", entries)
	}
	for _, bad := range []string{"/a", "../a", "a/../../b", "..a", ""} {
		if _, err := writeAtomically(dir, payload{bad: f("")}, owner{}, time.Now()); err == nil {
			t.Errorf("path %q was accepted", bad)
		}
	}
}

func TestTokensAreRefreshedInTime(t *testing.T) {
	clock := testclock.NewFakeClock(time.Unix(1_000_000, 0))
	client := fake.NewClientset()
	requests, fail := 0, false
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if fail {
			return true, nil, context.DeadlineExceeded
		}
		requests++
		request := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		if ref := request.Spec.BoundObjectRef; ref.Name != "p" || ref.UID != "uid-1" || *request.Spec.ExpirationSeconds != 1000 {
			t.Errorf("request: %+v", request.Spec)
		}
		request.Status = authenticationv1.TokenRequestStatus{Token: strings.Repeat("t", requests), ExpirationTimestamp: metav1.NewTime(clock.Now().Add(1000 * time.Second))}
		return true, request, nil
	})
	tokens := newTokens(client, clock)
	source := &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(1000))}
	for _, step := range []struct {
		wait time.Duration
		fail bool
		want string
		bad  bool
	}{
		{0, false, "t", false},
		{799 * time.Second, false, "t", false},
		{time.Second, false, "tt", false},
		{900 * time.Second, true, "tt", false}, // no new one to be had, and the old one still lives
		{101 * time.Second, true, "", true},
	} {
		clock.Step(step.wait)
		fail = step.fail
		got, err := tokens.get(t.Context(), podWith(), source)
		if got != step.want || (err != nil) != step.bad {
			t.Errorf("after %v: %q, %v", step.wait, got, err)
		}
	}
	tokens.forget("uid-1")
	if next := tokens.nextRefresh("uid-1"); !next.IsZero() {
		t.Errorf("still scheduled: %v", next)
	}
}

func TestSelectBundles(t *testing.T) {
	block := func(s string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(s)}))
	}
	bundle := func(name, signer, label string, certs ...string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}},
			Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: "# text\n" + strings.Join(certs, "\n")},
		}
	}
	all := []*certificatesv1.ClusterTrustBundle{bundle("one", "s", "x", block("B"), block("A")), bundle("two", "s", "y", block("A"), block("C")), bundle("three", "other", "x", block("D"))}
	type result struct {
		PEM string
		Bad bool
	}
	for name, tc := range map[string]struct {
		source corev1.ClusterTrustBundleProjection
		want   result
	}{
		"by name":          {corev1.ClusterTrustBundleProjection{Name: new("three")}, result{PEM: block("D")}},
		"missing":          {corev1.ClusterTrustBundleProjection{Name: new("no")}, result{Bad: true}},
		"optional":         {corev1.ClusterTrustBundleProjection{Name: new("no"), Optional: new(true)}, result{}},
		"all of a signer":  {corev1.ClusterTrustBundleProjection{SignerName: new("s"), LabelSelector: &metav1.LabelSelector{}}, result{PEM: block("A") + block("B") + block("C")}},
		"one of a signer":  {corev1.ClusterTrustBundleProjection{SignerName: new("s"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"l": "y"}}}, result{PEM: block("A") + block("C")}},
		"no selector: nil": {corev1.ClusterTrustBundleProjection{SignerName: new("s")}, result{Bad: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := selectBundles(all, &tc.source)
			if diff := cmp.Diff(tc.want, result{string(got), err != nil}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPodCertificate plays the signer and checks that what is projected is a usable pair.
func TestPodCertificate(t *testing.T) {
	client := fake.NewClientset(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sa-uid"}})
	clock := testclock.NewFakeClock(time.Now())
	client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		request := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		request.Name = request.GenerateName + "x"
		csr, err := x509.ParseCertificateRequest(request.Spec.StubPKCS10Request)
		if err != nil || csr.CheckSignature() != nil || request.Spec.ServiceAccountUID != "sa-uid" || request.Spec.NodeName != "n" {
			t.Errorf("request: %v %+v", err, request.Spec)
		}
		issuer, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: clock.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, csr.PublicKey, issuer)
		if err != nil {
			t.Error(err)
		}
		request.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
			CertificateChain: "text\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			BeginRefreshAt:   new(metav1.NewTime(clock.Now().Add(30 * time.Minute))), NotAfter: new(metav1.NewTime(clock.Now().Add(time.Hour))),
		}
		return false, nil, nil // and store it
	})
	p := newPodCertificates(Config{Client: client, NodeName: "n", Clock: clock, Node: func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}} }})
	pod := podWith()
	pod.Spec.ServiceAccountName = "sa"
	source := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ECDSAP256", CredentialBundlePath: "bundle", KeyPath: "key", CertificateChainPath: "chain"}
	got, err := p.payload(t.Context(), pod, "v", source, defaults{mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"chain", "key"}, {"bundle", "bundle"}} {
		if _, err := tls.X509KeyPair(got[pair[0]].data, got[pair[1]].data); err != nil {
			t.Errorf("%v: %v", pair, err)
		}
	}
	if next := p.nextRefresh(pod.UID); !next.Equal(clock.Now().Add(30 * time.Minute)) {
		t.Errorf("refresh at %v", next)
	}
	if again, err := p.payload(t.Context(), pod, "v", source, defaults{}); err != nil || string(again["key"].data) != string(got["key"].data) {
		t.Errorf("the pair changed before its time: %v", err)
	}
}
