package secureserving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// file is what was made of a file's content, anew when the file changes.
type file[T any] struct {
	path string
	make func(content []byte) (T, error)

	mu       sync.Mutex
	modified time.Time
	made     T
}

func (f *file[T]) load() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && !f.modified.IsZero() && info.ModTime().Equal(f.modified) {
		return f.made, nil
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(f.path)
	}
	var made T
	if err == nil {
		made, err = f.make(content)
	}
	if err != nil {
		return made, fmt.Errorf("%s: %w", f.path, err)
	}
	f.made, f.modified = made, info.ModTime()
	return made, nil
}

func pool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// CAFile returns the certificate authorities of a file, which is read again when it changes; nil for an empty path.
func CAFile(path string) func() (*x509.CertPool, error) {
	if path == "" {
		return nil
	}
	return (&file[*x509.CertPool]{path: path, make: pool}).load
}

// certificateFile returns the certificate and key of two files, which are read again when the certificate changes.
func certificateFile(cert, key string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f := &file[*tls.Certificate]{path: cert, make: func(pem []byte) (*tls.Certificate, error) {
		keyPEM, err := os.ReadFile(key)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(pem, keyPEM)
		return &pair, err
	}}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.load() }
}

// publishedCAs returns the authorities of client certificates that the API server publishes, and follows them until ctx ends.
func publishedCAs(ctx context.Context, client kubernetes.Interface) func() (*x509.CertPool, error) {
	const name, key = "extension-apiserver-authentication", "client-ca-file"
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}))
	maps := factory.Core().V1().ConfigMaps().Lister()
	factory.Core().V1().ConfigMaps().Informer()
	factory.StartWithContext(ctx)
	var mu sync.Mutex
	var version string
	var made *x509.CertPool
	return func() (*x509.CertPool, error) {
		published, err := maps.ConfigMaps(metav1.NamespaceSystem).Get(name)
		if err != nil {
			return nil, fmt.Errorf("authorities of client certificates: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if version != published.ResourceVersion {
			if made, err = pool([]byte(published.Data[key])); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", key, name, err)
			}
			version = published.ResourceVersion
		}
		return made, nil
	}
}
