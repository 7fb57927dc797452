package volumes

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// issueTimeout is for how long one SetUp waits for a signer; the pod's worker tries again after it.
const issueTimeout = time.Minute

// podCertificates keeps the certificates of this node's pods, and their keys, which never leave this process but into the pod.
type podCertificates struct {
	cfg Config

	mu    sync.Mutex
	byPod map[types.UID]map[string]*podCertificate // by volume and paths
}

type podCertificate struct {
	key, chain []byte // PEM
	refresh    time.Time
	expires    time.Time
}

func newPodCertificates(cfg Config) *podCertificates {
	return &podCertificates{cfg: cfg, byPod: map[types.UID]map[string]*podCertificate{}}
}

func (p *podCertificates) payload(ctx context.Context, pod *corev1.Pod, volume string, source *corev1.PodCertificateProjection, d defaults) (payload, error) {
	cert, err := p.current(ctx, pod, volume, source)
	if err != nil {
		return nil, err
	}
	out := payload{}
	for path, data := range map[string][]byte{
		source.CredentialBundlePath: slices.Concat(cert.key, cert.chain), source.KeyPath: cert.key, source.CertificateChainPath: cert.chain,
	} {
		if path != "" {
			out[path] = d.private(pod, source.User, data)
		}
	}
	return out, nil
}

// current returns the certificate in hand until its refresh is due, and that one still, until it expires, if none can be had.
func (p *podCertificates) current(ctx context.Context, pod *corev1.Pod, volume string, source *corev1.PodCertificateProjection) (*podCertificate, error) {
	name := fmt.Sprintf("%s %s %s %s", volume, source.CredentialBundlePath, source.KeyPath, source.CertificateChainPath)
	now := p.cfg.Clock.Now()
	p.mu.Lock()
	have := p.byPod[pod.UID][name]
	p.mu.Unlock()
	if have != nil && now.Before(have.refresh) {
		return have, nil
	}
	fresh, err := p.request(ctx, pod, source)
	switch {
	case err == nil:
	case have != nil && now.Before(have.expires):
		late := *have
		late.refresh = now.Add(time.Minute)
		fresh = &late
	default:
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byPod[pod.UID] == nil {
		p.byPod[pod.UID] = map[string]*podCertificate{}
	}
	p.byPod[pod.UID][name] = fresh
	return fresh, nil
}

func (p *podCertificates) request(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection) (*podCertificate, error) {
	key, err := newKey(source.KeyType)
	if err != nil {
		return nil, err
	}
	spec, err := p.spec(ctx, pod, source, key)
	if err != nil {
		return nil, err
	}
	api := p.cfg.Client.CertificatesV1().PodCertificateRequests(pod.Namespace)
	created, err := api.Create(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-" + pod.Name + "-", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}},
		Spec: *spec,
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("request pod certificate: %w", err)
	}
	issued, err := p.await(ctx, created)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return certificateOf(issued, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (p *podCertificates) spec(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection, key crypto.Signer) (*certificatesv1.PodCertificateRequestSpec, error) {
	node := p.cfg.Node()
	if node == nil {
		return nil, errors.New("the node is not registered yet")
	}
	account, err := p.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get service account: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return &certificatesv1.PodCertificateRequestSpec{
		SignerName: source.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
		NodeName: types.NodeName(node.Name), NodeUID: node.UID, MaxExpirationSeconds: source.MaxExpirationSeconds,
		StubPKCS10Request: csr, UnverifiedUserAnnotations: source.UserAnnotations,
	}, nil
}

// await watches the request until its signer has decided.
func (p *podCertificates) await(ctx context.Context, created *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	api := p.cfg.Client.CertificatesV1().PodCertificateRequests(created.Namespace)
	// The node authorizer lets a node see the requests that name it.
	own := fields.Set{"spec.nodeName": p.cfg.NodeName, metav1.ObjectNameField: created.Name}.AsSelector().String()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = own
			return api.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = own
			return api.Watch(ctx, o)
		},
	}, p.cfg.Client)
	var decided *certificatesv1.PodCertificateRequest
	_, err := watchtools.UntilWithSync(ctx, lw, &certificatesv1.PodCertificateRequest{}, nil, func(event watch.Event) (bool, error) {
		request, ok := event.Object.(*certificatesv1.PodCertificateRequest)
		if !ok {
			return false, nil
		}
		if event.Type == watch.Deleted {
			return false, errors.New("PodCertificateRequest was deleted before it was issued")
		}
		for _, c := range request.Status.Conditions {
			switch c.Type {
			case certificatesv1.PodCertificateRequestConditionTypeIssued:
				decided = request
				return true, nil
			case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
				return false, fmt.Errorf("PodCertificateRequest %s: %s: %s", c.Type, c.Reason, c.Message)
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for pod certificate: %w", err)
	}
	return decided, nil
}

// certificateOf keeps only the certificates of the answer, in their order.
func certificateOf(issued *certificatesv1.PodCertificateRequest, key []byte) (*podCertificate, error) {
	cert := &podCertificate{key: key}
	for rest := []byte(issued.Status.CertificateChain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert.chain = append(cert.chain, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if cert.chain == nil || issued.Status.BeginRefreshAt == nil || issued.Status.NotAfter == nil {
		return nil, fmt.Errorf("PodCertificateRequest %s was issued without a certificate", issued.Name)
	}
	cert.refresh, cert.expires = issued.Status.BeginRefreshAt.Time, issued.Status.NotAfter.Time
	return cert, nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072", "RSA4096":
		bits, err := strconv.Atoi(kind[3:])
		if err != nil {
			return nil, err
		}
		return rsa.GenerateKey(rand.Reader, bits)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

func (p *podCertificates) nextRefresh(uid types.UID) (next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cert := range p.byPod[uid] {
		if next.IsZero() || cert.refresh.Before(next) {
			next = cert.refresh
		}
	}
	return next
}

func (p *podCertificates) forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byPod, uid)
}
