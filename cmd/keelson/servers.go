package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/statefile"
)

// serverList is what an agent knows of the API servers: those that it was told of, and those that are behind the Service kubernetes,
// which it remembers over a restart.
type serverList struct {
	told []string // host:port
	path string

	mu      sync.Mutex
	learned []string
}

// newServerList reads URLs, and what an earlier agent has remembered in that folder.
func newServerList(urls []string, dir string) (*serverList, error) {
	told, err := hostPorts(urls)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	l := &serverList{told: told, path: filepath.Join(dir, "api-servers.json")}
	return l, statefile.LoadJSON(l.path, &l.learned)
}

// hostPorts are where the servers of https URLs listen.
func hostPorts(urls []string) ([]string, error) {
	var out []string
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return nil, fmt.Errorf("%q is not of the form https://host:port", text)
		}
		out = append(out, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6443")))
	}
	return out, nil
}

func (l *serverList) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.told)
	for _, server := range l.learned {
		if !slices.Contains(all, server) {
			all = append(all, server)
		}
	}
	return all
}

// follow learns of servers until ctx ends.
func (l *serverList) follow(ctx context.Context, identity *rest.Config) error {
	client, err := apiclient.Clientset(identity)
	if err != nil {
		return err
	}
	one := cache.NewListWatchFromClient(client.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceDefault,
		fields.OneTermEqualSelector("metadata.name", "kubernetes"))
	_, err = watchtools.UntilWithSync(ctx, one, &discoveryv1.EndpointSlice{}, nil, func(event watch.Event) (bool, error) {
		slice, ok := event.Object.(*discoveryv1.EndpointSlice)
		if ok && event.Type != watch.Deleted {
			l.learn(ctx, slice)
		}
		return false, nil
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return fmt.Errorf("follow the API servers: %w", err)
}

func (l *serverList) learn(ctx context.Context, slice *discoveryv1.EndpointSlice) {
	var servers []string
	for _, port := range slice.Ports {
		for _, endpoint := range slice.Endpoints {
			servers = append(servers, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*port.Port))))
		}
	}
	slices.Sort(servers)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(servers) == 0 || slices.Equal(servers, l.learned) {
		return
	}
	l.learned = servers
	if err := statefile.SaveJSON(l.path, servers); err != nil {
		klog.FromContext(ctx).Error(err, "API servers are not remembered")
	}
}
