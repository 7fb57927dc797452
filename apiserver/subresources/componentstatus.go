package subresources

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server/healthz"
)

// componentStatuses asks the components on this machine for their health. The kind is deprecated; old tools still list it.
type componentStatuses struct {
	rest.TableConvertor
	probes []componentProbe
	client *http.Client
}

// componentProbe asks a URL, or this server's own check.
type componentProbe struct {
	name, url string
	check     healthz.HealthChecker
}

func newComponentStatuses(checks []healthz.HealthChecker) *componentStatuses {
	probes := []componentProbe{
		{name: "controller-manager", url: "https://127.0.0.1:10257/healthz"},
		{name: "scheduler", url: "https://127.0.0.1:10259/healthz"},
	}
	for _, check := range checks {
		if check.Name() == "etcd" {
			probes = append(probes, componentProbe{name: "etcd-0", check: check})
		}
	}
	return &componentStatuses{
		TableConvertor: rest.NewDefaultTableConvertor(corev1.Resource("componentstatuses")),
		probes:         probes,
		client: &http.Client{
			Timeout: 2 * time.Second,
			// Loopback: the certificates are the components' own, made at their start.
			Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // as said above
		},
	}
}

var (
	_ rest.Lister             = &componentStatuses{}
	_ rest.Getter             = &componentStatuses{}
	_ rest.ShortNamesProvider = &componentStatuses{}
)

// New implements rest.Storage.
func (c *componentStatuses) New() runtime.Object { return &corev1.ComponentStatus{} }

// NewList implements rest.Lister.
func (c *componentStatuses) NewList() runtime.Object { return &corev1.ComponentStatusList{} }

// Destroy implements rest.Storage.
func (c *componentStatuses) Destroy() { c.client.CloseIdleConnections() }

// NamespaceScoped implements rest.Scoper.
func (c *componentStatuses) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (c *componentStatuses) GetSingularName() string { return "componentstatus" }

// ShortNames implements rest.ShortNamesProvider.
func (c *componentStatuses) ShortNames() []string { return []string{"cs"} }

// List implements rest.Lister.
func (c *componentStatuses) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, p := range c.probes {
		status := c.probe(ctx, p)
		if options != nil && options.LabelSelector != nil && !options.LabelSelector.Matches(labels.Set(status.Labels)) {
			continue
		}
		list.Items = append(list.Items, *status)
	}
	return list, nil
}

// Get implements rest.Getter.
func (c *componentStatuses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	for _, p := range c.probes {
		if p.name == name {
			return c.probe(ctx, p), nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("componentstatus"), name)
}

func (c *componentStatuses) probe(ctx context.Context, p componentProbe) *corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue}
	message, err := c.ask(ctx, p)
	condition.Message = message
	if err != nil {
		condition.Status, condition.Message = corev1.ConditionFalse, err.Error()
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: p.name}, Conditions: []corev1.ComponentCondition{condition}}
}

func (c *componentStatuses) ask(ctx context.Context, p componentProbe) (string, error) {
	if p.check != nil {
		return "ok", p.check.Check(nil)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return "", err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	const enough = 4 << 10 // a healthy component says "ok"
	body, err := io.ReadAll(io.LimitReader(response.Body, enough))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("HTTP probe failed with statuscode: %d", response.StatusCode)
	}
	return string(body), nil
}
