package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/apiserver/authorization/bootstrap"
)

// hook is something that the server does once it serves. It is ready only after every hook has succeeded.
type hook struct {
	name string
	run  func(ctx context.Context) error
}

// bootHooks are the objects that every cluster has.
func (c *config) bootHooks() []hook {
	return []hook{
		{"start-system-namespaces-controller", c.keepNamespaces},
		{"rbac/bootstrap-roles", func(ctx context.Context) error { return bootstrap.EnsureRBAC(ctx, c.client) }},
		{"scheduling/bootstrap-system-priority-classes", func(ctx context.Context) error { return bootstrap.EnsurePriorityClasses(ctx, c.client) }},
		{"priority-and-fairness-config-producer", c.newFlowControl()},
		{"start-cluster-authentication-info-controller", c.publishAuthentication},
		{"start-kube-apiserver-identity-lease-garbage-collector", c.collectFormerServers},
		{"start-legacy-token-tracking-controller", c.keepTokenTracking},
	}
}

// addHooks registers hooks so that a failed one is tried again until it succeeds or the server stops.
func addHooks(server *genericapiserver.GenericAPIServer, hooks []hook) error {
	for _, h := range hooks {
		err := server.AddPostStartHook(h.name, func(ctx genericapiserver.PostStartHookContext) error {
			delay := wait.Backoff{Duration: 20 * time.Millisecond, Factor: 2, Cap: 5 * time.Second, Steps: 10, Jitter: 0.1}.DelayFunc()
			// The only error is that the server stops, which is none.
			_ = delay.Until(ctx, true, true, func(ctx context.Context) (bool, error) {
				err := h.run(ctx)
				if err != nil && ctx.Err() == nil {
					klog.FromContext(ctx).V(1).Info("Start hook will be tried again", "hook", h.name, "err", err)
				}
				return err == nil, nil
			})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// systemNamespaces exist from the start and come back when they are deleted.
var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault}

func (c *config) keepNamespaces(ctx context.Context) error {
	for _, name := range systemNamespaces {
		if err := c.ensureNamespace(ctx, name); err != nil {
			return err
		}
	}
	_, err := c.informers.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
		if err != nil || !slices.Contains(systemNamespaces, name) {
			return
		}
		if err := c.ensureNamespace(ctx, name); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not bring back a system namespace", "namespace", name)
		}
	}})
	return err
}

func (c *config) ensureNamespace(ctx context.Context, name string) error {
	if _, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"}); err == nil {
		return nil
	}
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// authenticationConfigMap tells aggregated API servers how this server authenticates its clients and itself.
const authenticationConfigMap = "extension-apiserver-authentication"

func (c *config) publishAuthentication(ctx context.Context) error {
	want := map[string]string{}
	if ca := c.security.clientCA; ca != nil {
		want["client-ca-file"] = string(ca.CurrentCABundleContent())
	}
	if h := c.security.requestHeader; h != nil {
		want["requestheader-client-ca-file"] = string(h.CAContentProvider.CurrentCABundleContent())
		for key, values := range map[string][]string{
			"requestheader-username-headers":     h.UsernameHeaders.Value(),
			"requestheader-uid-headers":          h.UIDHeaders.Value(),
			"requestheader-group-headers":        h.GroupHeaders.Value(),
			"requestheader-extra-headers-prefix": h.ExtraHeaderPrefixes.Value(),
			"requestheader-allowed-names":        h.AllowedClientNames.Value(),
		} {
			if values == nil {
				values = []string{}
			}
			encoded, err := json.Marshal(values)
			if err != nil {
				return fmt.Errorf("encode %s: %w", key, err)
			}
			want[key] = string(encoded)
		}
	}
	maps := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	found, err := maps.Get(ctx, authenticationConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: authenticationConfigMap}, Data: want}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	for _, key := range []string{"client-ca-file", "requestheader-client-ca-file"} { // other servers' authorities stay accepted
		if had := found.Data[key]; had != "" && !strings.Contains(had, want[key]) {
			want[key] = strings.TrimRight(had, "\n") + "\n" + want[key]
		} else if had != "" {
			want[key] = had
		}
	}
	if apiequality.Semantic.DeepEqual(found.Data, want) {
		return nil
	}
	found.Data = want
	_, err = maps.Update(ctx, found, metav1.UpdateOptions{})
	return err
}

const identityLabel = "apiserver.kubernetes.io/identity"

// newIdentityLease returns what renews the lease by which other servers know of this one. It waits for the namespace of the lease.
func (c *config) newIdentityLease() (lease.Controller, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("get the host's name: %w", err)
	}
	holder := c.generic.APIServerID + "_" + uuid.New().String()
	return lease.NewController(clock.RealClock{}, c.client, holder, int32(c.options.IdentityLeaseSeconds), nil,
		time.Duration(c.options.IdentityLeaseRenewSeconds)*time.Second, c.generic.APIServerID, metav1.NamespaceSystem,
		func(l *coordinationv1.Lease) error {
			if l.Labels == nil {
				l.Labels = map[string]string{}
			}
			l.Labels[identityLabel], l.Labels[corev1.LabelHostname] = "kube-apiserver", hostname
			return nil
		}), nil
}

// collectFormerServers deletes the leases of servers that are long gone, until ctx ends.
func (c *config) collectFormerServers(ctx context.Context) error {
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := c.collectIdentityLeases(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not collect leases of former API servers")
		}
	}, time.Duration(c.options.IdentityLeaseSeconds)*time.Second, 0.1, true)
	return nil
}

func (c *config) collectIdentityLeases(ctx context.Context) error {
	leases := c.client.CoordinationV1().Leases(metav1.NamespaceSystem)
	list, err := leases.List(ctx, metav1.ListOptions{LabelSelector: identityLabel + "=kube-apiserver"})
	if err != nil {
		return err
	}
	for i := range list.Items {
		l := &list.Items[i]
		if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
			continue
		}
		if time.Since(l.Spec.RenewTime.Time) > time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second {
			err := leases.Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(l.UID))})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

const (
	// tokenTracking tells cleaners since when the use of tokens from secrets is noted.
	tokenTracking = "kube-apiserver-legacy-service-account-token-tracking"
	// trackingInterval is upstream's limit to how often it is made again, for servers that disagree about it.
	trackingInterval = 30 * time.Minute
)

func (c *config) keepTokenTracking(ctx context.Context) error {
	if err := c.ensureTokenTracking(ctx); err != nil {
		return err
	}
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := c.ensureTokenTracking(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not keep the start of token tracking")
		}
	}, trackingInterval, 0.1, true)
	return nil
}

func (c *config) ensureTokenTracking(ctx context.Context) error {
	maps, since := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem), map[string]string{"since": time.Now().UTC().Format(time.DateOnly)}
	found, err := maps.Get(ctx, tokenTracking, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: tokenTracking}, Data: since}, metav1.CreateOptions{})
	case err == nil:
		if _, bad := time.Parse(time.DateOnly, found.Data["since"]); bad != nil {
			found.Data = since
			_, err = maps.Update(ctx, found, metav1.UpdateOptions{})
		}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("keep config map %s: %w", tokenTracking, err)
	}
	return nil
}
