package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"keelson.dev/internal/apiclient"
)

// readyPoll is how often an API server that does not answer yet is asked: nothing can be watched before it does.
const readyPoll = 50 * time.Millisecond

// api is the cluster as its administrator sees it.
type api struct {
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

func (c *Cluster) connect() (*api, error) { return c.connectTo("") }

// connectTo connects to one server, or to what the kubeconfig says.
func (c *Cluster) connectTo(server string) (*api, error) {
	config, err := apiclient.FromKubeconfig(c.KubeconfigPath(), "lab")
	if err != nil {
		return nil, err
	}
	config.Host = cmp.Or(server, config.Host)
	client, err := apiclient.Clientset(config)
	if err != nil {
		return nil, err
	}
	transport, err := apiclient.HTTPClient(config)
	if err != nil {
		return nil, err
	}
	dynamicClient, err := dynamic.NewForConfigAndClient(config, transport)
	if err != nil {
		return nil, fmt.Errorf("build dynamic client: %w", err)
	}
	return &api{client: client, dynamic: dynamicClient}, nil
}

// waitReady returns once the API server says that it is ready.
func (a *api) waitReady(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, readyPoll, true, func(ctx context.Context) (bool, error) {
		last = a.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("API server is not ready: %w", errors.Join(err, last))
	}
	return nil
}

// waitServers returns once all of these servers are ready, and so is the way to them.
func (c *Cluster) waitServers(ctx context.Context, servers []Member) error {
	for _, m := range servers {
		api, err := c.connectTo(m.apiServer())
		if err != nil {
			return err
		}
		if err := api.waitReady(ctx); err != nil {
			return fmt.Errorf("%s: %w; see %s", m.Name, err, filepath.Join(c.Node(m).StatePath("/var/log"), "keelson-server.log"))
		}
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	return api.waitReady(ctx)
}

// waitNodes returns once all members are Ready, and gives each its role label, which nodes may not set themselves.
func (a *api) waitNodes(ctx context.Context, members []Member) error {
	wanted := map[string]Role{}
	for _, m := range members {
		if !m.Off {
			wanted[m.Name] = m.Role
		}
	}
	labelled := map[string]bool{}
	nodes := cache.NewListWatchFromClient(a.client.CoreV1().RESTClient(), "nodes", "", fields.Everything())
	_, err := watchtools.UntilWithSync(ctx, nodes, &corev1.Node{}, nil, func(event watch.Event) (bool, error) {
		node, ok := event.Object.(*corev1.Node)
		if !ok {
			return false, nil
		}
		role, ours := wanted[node.Name]
		if ours && !labelled[node.Name] {
			labelled[node.Name] = true
			if err := a.labelNode(ctx, node.Name, role); err != nil {
				return false, err
			}
		}
		if nodeReady(node) {
			delete(wanted, node.Name)
		}
		return len(wanted) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("nodes not Ready: %v: %w", keys(wanted), err)
	}
	return nil
}

func (a *api) labelNode(ctx context.Context, name string, role Role) error {
	label := "worker"
	if role == Server {
		label = "control-plane"
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{"node-role.kubernetes.io/%s":""}}}`, label)
	_, err := a.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("label node %s: %w", name, err)
	}
	return nil
}

func nodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (a *api) deleteNode(ctx context.Context, name string) error {
	err := a.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", name, err)
	}
	return nil
}

// waitDeployment returns once the deployment has all its replicas available.
func (a *api) waitDeployment(ctx context.Context, namespace, name string) error {
	one := cache.NewListWatchFromClient(a.client.AppsV1().RESTClient(), "deployments", namespace,
		fields.OneTermEqualSelector("metadata.name", name))
	_, err := watchtools.UntilWithSync(ctx, one, &appsv1.Deployment{}, nil, func(event watch.Event) (bool, error) {
		d, ok := event.Object.(*appsv1.Deployment)
		return ok && d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas >= *d.Spec.Replicas, nil
	})
	if err != nil {
		return fmt.Errorf("deployment %s/%s is not available: %w", namespace, name, err)
	}
	return nil
}

// waitDNS returns once the cluster's DNS address answers a query from a node.
func (c *Cluster) waitDNS(ctx context.Context) error {
	pid, err := c.Node(c.living()[0]).PID(ctx)
	if err != nil {
		return err
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialInside(ctx, pid, network, net.JoinHostPort(c.DNSAddress, "53"))
	}}
	name := "kubernetes.default.svc." + c.DNSDomain + "."
	var last error
	// Nothing can be watched here: what counts is the answer to a real query.
	err = wait.PollUntilContextCancel(ctx, readyPoll, true, func(ctx context.Context) (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, last = resolver.LookupHost(attempt, name)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("DNS does not answer for %s: %w", name, errors.Join(err, last))
	}
	return nil
}

// dialInside dials from the network namespace of a process. The thread that entered it is not used again.
func dialInside(ctx context.Context, pid int, network, address string) (net.Conn, error) {
	type result struct {
		connection net.Conn
		err        error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		namespace, err := netns.GetFromPid(pid)
		if err != nil {
			done <- result{err: fmt.Errorf("open network namespace of process %d: %w", pid, err)}
			return
		}
		defer namespace.Close()
		if err := netns.Set(namespace); err != nil {
			done <- result{err: fmt.Errorf("enter network namespace of process %d: %w", pid, err)}
			return
		}
		var dialer net.Dialer
		connection, err := dialer.DialContext(ctx, network, address)
		done <- result{connection, err}
	}()
	r := <-done
	return r.connection, r.err
}

func keys(m map[string]Role) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	return names
}
