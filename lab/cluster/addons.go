package cluster

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/pki"
	"keelson.dev/lab/addons"
	"keelson.dev/lab/images"
	"keelson.dev/lab/registry"
)

// addonPatience is how long an addon may take to be available.
const addonPatience = 3 * time.Minute

// Addon is something that a cluster can have besides what it needs.
type Addon struct {
	Name, About string
	Enabled     bool
	namespace   string // where its Deployment of the same name is
	values      func(*Cluster) (any, error)
	// apart is a file of the bundle with types that must be there first; like the addon's image it is built on its own. The types stay when
	// the addon is disabled: they, and objects of them, may be others'.
	apart string
}

func allAddons() []Addon {
	return []Addon{
		{
			Name: "demo", About: "a web program in the namespace demo", namespace: "demo",
			values: func(*Cluster) (any, error) { return addons.Demo{Image: images.Demo}, nil },
		},
		{
			Name: "ingress", About: "Ingress and Gateway API by Traefik (make ingress builds it)", namespace: "ingress", apart: "gateway-api.yaml",
			values: func(*Cluster) (any, error) { return addons.Ingress{Image: images.Traefik}, nil },
		},
		{
			Name: "metrics-server", About: "kubectl top, and metrics for the autoscaler", namespace: metav1.NamespaceSystem,
			values: func(c *Cluster) (any, error) { return c.metricsServer() },
		},
	}
}

// Addons lists what there is, and what of it the cluster has.
func (c *Cluster) Addons(ctx context.Context) ([]Addon, error) {
	api, err := c.connect()
	if err != nil {
		return nil, err
	}
	list := allAddons()
	for i := range list {
		_, err := api.client.AppsV1().Deployments(list[i].namespace).Get(ctx, list[i].Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("look for addon %s: %w", list[i].Name, err)
		}
		list[i].Enabled = err == nil
	}
	return list, nil
}

// EnableAddon applies an addon, again if need be, and waits until it is available.
func (c *Cluster) EnableAddon(ctx context.Context, name string) error {
	addon, api, err := c.addon(name)
	if err != nil {
		return err
	}
	values, err := addon.values(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, addonPatience)
	defer cancel()
	if err := c.prepare(ctx, addon, api); err != nil {
		return err
	}
	if err := addons.Apply(ctx, api.dynamic, name, values); err != nil {
		return err
	}
	return api.waitDeployment(ctx, addon.namespace, name)
}

// prepare brings the types and the image of an addon that is built apart, perhaps after the cluster came up.
func (c *Cluster) prepare(ctx context.Context, addon Addon, api *api) error {
	if addon.apart == "" {
		return nil
	}
	types := filepath.Join(c.bundle, addon.apart)
	if _, err := os.Stat(types); err != nil {
		return fmt.Errorf("addon %s is not part of this bundle: make %s builds it (%w)", addon.Name, addon.Name, err)
	}
	if err := registry.Import(ctx, c.ImageHandler(ctx), filepath.Join(c.bundle, "images")); err != nil {
		return err
	}
	return addons.ApplyFile(ctx, api.dynamic, types)
}

// DisableAddon removes all that an addon consists of.
func (c *Cluster) DisableAddon(ctx context.Context, name string) error {
	addon, api, err := c.addon(name)
	if err != nil {
		return err
	}
	values, err := addon.values(c)
	if err != nil {
		return err
	}
	return addons.Remove(ctx, api.dynamic, name, values)
}

func (c *Cluster) addon(name string) (Addon, *api, error) {
	list := allAddons()
	i := slices.IndexFunc(list, func(a Addon) bool { return a.Name == name })
	if i < 0 {
		return Addon{}, nil, fmt.Errorf("there is no addon %q: keelson addon ls lists them", name)
	}
	api, err := c.connect()
	return list[i], api, err
}

// metricsServer issues the certificate that the API server trusts metrics-server by.
func (c *Cluster) metricsServer() (addons.MetricsServer, error) {
	pair, err := pki.EnsureClient(c.PKIDir(), "metrics-server", pki.Request{
		CommonName: "metrics-server", DNSNames: []string{"metrics-server.kube-system.svc"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	if err != nil {
		return addons.MetricsServer{}, err
	}
	authority, err := c.authority()
	if err != nil {
		return addons.MetricsServer{}, err
	}
	encode := base64.StdEncoding.EncodeToString
	return addons.MetricsServer{
		Image: images.MetricsServer, CertBase64: encode(pair.CertPEM), KeyBase64: encode(pair.KeyPEM), AuthorityBase64: encode(authority),
	}, nil
}
