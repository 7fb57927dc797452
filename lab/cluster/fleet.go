package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
)

// Fleet is a number of hollow nodes that one process on the machine runs, as the cluster remembers it.
type Fleet struct {
	Name  string   `json:"name"`
	Nodes []string `json:"nodes"` // their names
	Index int      `json:"index"` // of the ranges below
	Args  []string `json:"args,omitempty"`
	Off   bool     `json:"off,omitempty"`
}

// Ranges of addresses that no real network has, one part for each fleet: nodes out of 198.18.0.0/15 (RFC 2544, for benchmarks) and pods
// out of 100.64.0.0/10 (RFC 6598).
const (
	maxFleets     = 4
	maxFleetNodes = 8000 // of a /19 for nodes, and of a /12 for the 110 pods of each
)

func (f Fleet) nodeCIDR() string { return fmt.Sprintf("198.18.%d.0/19", f.Index*32) }
func (f Fleet) podCIDR() string  { return fmt.Sprintf("100.%d.0.0/12", 64+f.Index*16) }

// fleetLabel names the fleet of a hollow node.
const fleetLabel = "keelson.dev/hollow-fleet"

// hollowLease is the seconds that a hollow node's heartbeat counts: a quarter of it goes twice into nodeMonitorGrace.
const hollowLease = "28"

func (c *Cluster) fleet(name string) *Fleet {
	for i := range c.Fleets {
		if c.Fleets[i].Name == name {
			return &c.Fleets[i]
		}
	}
	return nil
}

func (c *Cluster) fleetConfig(f Fleet) string { return filepath.Join(c.dir(), f.Name+".kubeconfig") }

// fleetDaemon runs the fleet. What the user asked for comes last and counts.
func (c *Cluster) fleetDaemon(f Fleet) daemon {
	return c.daemon(f.Name, append([]string{
		"hollow", "--kubeconfig", c.fleetConfig(f), "--fleet", f.Name, "--nodes", strconv.Itoa(len(f.Nodes)), "--node-cidr", f.nodeCIDR(),
		"--pod-cidr", f.podCIDR(), "--lease-seconds", hollowLease, "--ready-fd", "3",
	}, f.Args...)...)
}

func (c *Cluster) fleetDaemons() []daemon {
	var out []daemon
	for _, f := range c.Fleets {
		out = append(out, c.fleetDaemon(f))
	}
	return out
}

// AddFleet adds hollow nodes and waits until all are Ready. nameOf names the node with an index; args are further flags of keelson
// hollow.
func (c *Cluster) AddFleet(ctx context.Context, count int, nameOf func(fleet string, index int) string, args []string) (Fleet, error) {
	if count < 1 || count > maxFleetNodes {
		return Fleet{}, fmt.Errorf("a fleet has 1 to %d hollow nodes", maxFleetNodes)
	}
	index := 0
	for slices.ContainsFunc(c.Fleets, func(f Fleet) bool { return f.Index == index }) {
		index++
	}
	if index == maxFleets {
		return Fleet{}, fmt.Errorf("cluster %s has %d fleets of hollow nodes; there are no addresses for more", c.Name, maxFleets)
	}
	f := Fleet{Name: fmt.Sprintf("hollow-%d", index+1), Index: index, Args: args}
	for i := range count {
		f.Nodes = append(f.Nodes, nameOf(f.Name, i))
	}
	c.Fleets = append(c.Fleets, f)
	if err := c.save(); err != nil {
		return Fleet{}, err
	}
	if err := c.admitFleet(ctx, f); err != nil {
		return Fleet{}, err
	}
	return f, c.fleetDaemon(f).start(ctx)
}

// fleetUser is who the fleet's process is. It may act as its nodes, by name, and read pods and nodes; nothing else.
func fleetUser(f Fleet) string { return "keelson:" + f.Name }

func (c *Cluster) admitFleet(ctx context.Context, f Fleet) error {
	pair, err := pki.EnsureClient(c.PKIDir(), f.Name, pki.Request{CommonName: fleetUser(f)}, time.Now())
	if err != nil {
		return err
	}
	entry, err := c.adminEntry()
	if err != nil {
		return err
	}
	entry.User, entry.CertPEM, entry.KeyPEM = fleetUser(f), pair.CertPEM, pair.KeyPEM
	if err := kubeconfig.Write(c.fleetConfig(f), entry); err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	users := make([]string, len(f.Nodes))
	for i, name := range f.Nodes {
		users[i] = "system:node:" + name
	}
	impersonate := []string{"impersonate"}
	_, err = api.client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: fleetUser(f)},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"users"}, ResourceNames: users, Verbs: impersonate},
			{APIGroups: []string{""}, Resources: []string{"groups"}, ResourceNames: []string{"system:nodes"}, Verbs: impersonate},
			{APIGroups: []string{""}, Resources: []string{"pods", "nodes"}, Verbs: []string{"list", "watch"}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role of hollow nodes: %w", err)
	}
	_, err = api.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: fleetUser(f)},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: fleetUser(f)},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: fleetUser(f)}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("role of hollow nodes: %w", err)
	}
	return nil
}

// removeFleet ends the process, deletes the Node objects and takes back what the process was allowed.
func (c *Cluster) removeFleet(ctx context.Context, f Fleet) error {
	if err := c.fleetDaemon(f).stop(ctx); err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	err = api.client.CoreV1().Nodes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: fleetLabel + "=" + f.Name})
	if err != nil {
		return fmt.Errorf("delete hollow nodes: %w", err)
	}
	for what, remove := range map[string]func(context.Context, string, metav1.DeleteOptions) error{
		"binding": api.client.RbacV1().ClusterRoleBindings().Delete, "role": api.client.RbacV1().ClusterRoles().Delete,
	} {
		if err := remove(ctx, fleetUser(f), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s of hollow nodes: %w", what, err)
		}
	}
	for _, path := range []string{c.fleetConfig(f), filepath.Join(c.PKIDir(), f.Name+".crt"), filepath.Join(c.PKIDir(), f.Name+".key")} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove hollow nodes: %w", err)
		}
	}
	c.Fleets = slices.DeleteFunc(c.Fleets, func(other Fleet) bool { return other.Name == f.Name })
	return c.save()
}

// FleetStatus is whether the fleet's process runs.
func (c *Cluster) FleetStatus(f Fleet) (string, error) {
	pid, err := c.fleetDaemon(f).pid()
	if pid == 0 {
		return "off", err
	}
	return "running", err
}
