package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is a cluster at a glance.
type Status struct {
	Name        string       `json:"name"`
	Server      string       `json:"server"` // URL of the API
	API         string       `json:"api"`    // "ready", or why it is not
	NodesReady  int          `json:"nodesReady"`
	Pods        int          `json:"pods"` // without those that have completed their work
	PodsRunning int          `json:"podsRunning"`
	Nodes       []NodeStatus `json:"nodes"`
	// Kubeconfig is the administrator's.
	Kubeconfig string `json:"kubeconfig"`
	// EtcdFlags are what etcdctl takes to reach the cluster's etcd from this machine.
	EtcdFlags []string `json:"etcdFlags"`
}

// NodeStatus is a node, or a fleet of hollow ones.
type NodeStatus struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address,omitempty"`
	Power   string `json:"power"`
	Count   int    `json:"count"` // of nodes
	Ready   int    `json:"ready"` // of them, to the API
}

// Status asks the API server; what does not answer within two seconds counts as down.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	s := Status{Name: c.Name, Server: c.APIServer(), Kubeconfig: c.KubeconfigPath(), EtcdFlags: c.etcdFlags()}
	var err error
	if s.Nodes, err = c.Nodes(ctx); err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.API = "ready"
	if err := s.ask(ctx, c); err != nil {
		s.API = err.Error()
	}
	return s, nil
}

// Nodes tells which nodes have power.
func (c *Cluster) Nodes(ctx context.Context) ([]NodeStatus, error) {
	var nodes []NodeStatus
	for _, m := range c.Members {
		status, err := c.Node(m).Status(ctx)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, NodeStatus{Name: m.Name, Role: string(m.Role), Address: m.Address.String(), Power: string(status), Count: 1})
	}
	for _, f := range c.Fleets {
		status, err := c.FleetStatus(f)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, NodeStatus{Name: f.Name, Role: "hollow", Power: status, Count: len(f.Nodes)})
	}
	return nodes, nil
}

// ask adds what the API server knows.
func (s *Status) ask(ctx context.Context, c *Cluster) error {
	api, err := c.connect()
	if err != nil {
		return err
	}
	if err := api.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return err
	}
	nodes, err := api.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	of := map[string]*NodeStatus{}
	for i := range s.Nodes {
		of[s.Nodes[i].Name] = &s.Nodes[i]
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if !nodeReady(node) {
			continue
		}
		if ours := of[node.Name]; ours != nil {
			s.NodesReady++
			ours.Ready++
		} else if fleet := of[node.Labels[fleetLabel]]; fleet != nil {
			fleet.Ready++
		}
	}
	pods, err := api.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		switch pods.Items[i].Status.Phase {
		case corev1.PodSucceeded:
		case corev1.PodRunning:
			s.Pods++
			s.PodsRunning++
		default:
			s.Pods++
		}
	}
	return nil
}
