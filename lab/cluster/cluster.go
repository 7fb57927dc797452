// Package cluster makes a whole cluster on one machine out of lab nodes, a network and a registry, and remembers it on disk, so that
// it can be taken down and brought back, with its data and its addresses, by any later command.
package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"keelson.dev/internal/statefile"
	"keelson.dev/lab/network"
	"keelson.dev/lab/node"
)

// DefaultName is the cluster that commands mean when none is named; its kubeconfig context has the same name.
const DefaultName = "keelson"

// Role is what a node does.
type Role string

// A server runs the control plane; a worker runs pods only.
const (
	Server Role = "server"
	Worker Role = "worker"
)

// Member is a node as the cluster remembers it.
type Member struct {
	Name    string     `json:"name"`
	Role    Role       `json:"role"`
	Address netip.Addr `json:"address"`
	// Off is true for a node that the user has killed: up leaves it off, node start brings it back.
	Off bool `json:"off,omitempty"`
	// Joins is true for a server that came to a control plane of others.
	Joins bool `json:"joins,omitempty"`
	// Invited is true for a node that gets all it needs by a token, as a machine elsewhere does.
	Invited bool `json:"invited,omitempty"`
}

// State is the cluster's memory: what cluster.json holds.
type State struct {
	Name           string        `json:"name"`
	Subnet         netip.Prefix  `json:"subnet"`
	PodCIDR        string        `json:"podCIDR"`
	ServiceCIDR    string        `json:"serviceCIDR"`
	DNSAddress     string        `json:"dnsAddress"`
	DNSDomain      string        `json:"dnsDomain"`
	BootstrapToken string        `json:"bootstrapToken"`
	ServerArgs     []string      `json:"serverArgs,omitempty"` // further flags of keelson server
	AgentArgs      []string      `json:"agentArgs,omitempty"`  // further flags of keelson agent
	Routed         bool          `json:"routed,omitempty"`     // nodes share no link
	Etcd           *ExternalEtcd `json:"etcd,omitempty"`
	Balanced       bool          `json:"balanced,omitempty"` // the API is reached by a balancer on the machine
	Members        []Member      `json:"members"`
	Fleets         []Fleet       `json:"fleets,omitempty"`
	Faults         []Fault       `json:"faults,omitempty"` // that are not undone
	// Upstreams are registries that are asked in the place of others, as host[:port] by name.
	Upstreams map[string]string `json:"upstreams,omitempty"`
	// Restoring is the snapshot that replaces the cluster while that is under way.
	Restoring string `json:"restoring,omitempty"`
}

// Cluster is one cluster on this machine.
type Cluster struct {
	State
	home   string // of all clusters
	bundle string // folder of the programs
	lock   *os.File
}

// Home is where clusters live on this machine: $KEELSON_HOME, or /var/lib/keelson.
func Home() string {
	return cmp.Or(os.Getenv("KEELSON_HOME"), "/var/lib/keelson")
}

// ErrNotFound says that there is no cluster of that name.
var ErrNotFound = errors.New("no such cluster")

// validName keeps names usable in file names, control groups and kubeconfig contexts.
var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$`)

// Open reads the cluster of that name and locks it against other commands until Close. bundle is the folder of the programs.
func Open(name, bundle string) (*Cluster, error) {
	c, err := open(name, bundle)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(); err != nil {
		return nil, err
	}
	// What another command wrote while this one waited for the lock counts.
	if err := c.read(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// View reads the cluster of that name without locking it.
func View(name, bundle string) (*Cluster, error) { return open(name, bundle) }

func open(name, bundle string) (*Cluster, error) {
	c := &Cluster{State: State{Name: name}, home: Home(), bundle: bundle}
	return c, c.read()
}

func (c *Cluster) read() error {
	data, err := os.ReadFile(filepath.Join(c.dir(), "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s (keelson up makes it)", ErrNotFound, c.Name)
	}
	if err != nil {
		return fmt.Errorf("read cluster %s: %w", c.Name, err)
	}
	c.State = State{}
	if err := json.Unmarshal(data, &c.State); err != nil {
		return fmt.Errorf("read cluster %s: %w", c.Name, err)
	}
	return nil
}

// create makes a new cluster's folder and first state.
func create(name, bundle string) (*Cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q: use up to 30 lower-case letters, digits and '-'", name)
	}
	subnet, err := network.ChooseSubnet()
	if err != nil {
		return nil, err
	}
	token, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return nil, fmt.Errorf("make bootstrap token: %w", err)
	}
	c := &Cluster{home: Home(), bundle: bundle, State: State{
		Name: name, Subnet: subnet, PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12", DNSAddress: "10.96.0.10",
		DNSDomain: "cluster.local", BootstrapToken: token,
	}}
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of cluster: %w", err)
	}
	if err := c.acquire(); err != nil {
		return nil, err
	}
	return c, c.save()
}

// save writes the state in one step.
func (c *Cluster) save() error {
	data, err := json.MarshalIndent(c.State, "", "  ")
	if err != nil {
		return fmt.Errorf("encode cluster state: %w", err)
	}
	return statefile.Write(filepath.Join(c.dir(), "cluster.json"), data, 0o600)
}

func (c *Cluster) acquire() error {
	lock, err := os.OpenFile(filepath.Join(c.dir(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock cluster %s: %w", c.Name, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock cluster %s: %w", c.Name, err)
	}
	c.lock = lock
	return nil
}

// Close releases the lock.
func (c *Cluster) Close() {
	if c.lock != nil {
		c.lock.Close() // the lock ends with the file
	}
}

func (c *Cluster) dir() string { return filepath.Join(c.home, "clusters", c.Name) }
func (c *Cluster) network() network.Network {
	return network.Network{Cluster: c.Name, Subnet: c.Subnet, Routed: c.Routed}
}

// Node returns the lab node of a member.
func (c *Cluster) Node(m Member) *node.Node {
	return &node.Node{
		Name: m.Name, Cluster: c.Name, Address: m.Address, Network: c.network(),
		Dir: filepath.Join(c.dir(), "nodes", m.Name), Bundle: c.bundle,
	}
}

// Member finds a node by name.
func (c *Cluster) Member(name string) (*Member, error) {
	for i := range c.Members {
		if c.Members[i].Name == name {
			return &c.Members[i], nil
		}
	}
	names := make([]string, len(c.Members))
	for i, m := range c.Members {
		names[i] = m.Name
	}
	for _, f := range c.Fleets {
		names = append(names, f.Name)
	}
	return nil, fmt.Errorf("cluster %s has no node %q; it has %s", c.Name, name, strings.Join(names, ", "))
}

// servers are the members that run the control plane.
func (c *Cluster) servers() []Member {
	return slices.DeleteFunc(slices.Clone(c.Members), func(m Member) bool { return m.Role != Server })
}

// living are the servers that have not been switched off.
func (c *Cluster) living() []Member {
	return slices.DeleteFunc(c.servers(), func(m Member) bool { return m.Off })
}

// addMember gives a new member the lowest free number of its role and an address of the subnet.
func (c *Cluster) addMember(role Role) (Member, error) {
	for number := 1; ; number++ {
		name := fmt.Sprintf("%s-%d", role, number)
		if _, err := c.Member(name); err == nil {
			continue
		}
		address, err := c.freeAddress()
		if err != nil {
			return Member{}, err
		}
		m := Member{Name: name, Role: role, Address: address, Joins: role == Server && len(c.servers()) > 0}
		c.Balanced = c.Balanced || m.Joins
		c.Members = append(c.Members, m)
		return m, nil
	}
}

func (c *Cluster) freeAddress() (netip.Addr, error) {
	for candidate := c.network().Gateway().Next(); !c.network().LoadBalancers().Contains(candidate); candidate = candidate.Next() {
		if !slices.ContainsFunc(c.Members, func(m Member) bool { return m.Address == candidate }) {
			return candidate, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("subnet %s has no address left", c.Subnet)
}

// APIServer is the URL of the API, as the machine reaches it.
func (c *Cluster) APIServer() string {
	if c.Balanced {
		return "https://" + net.JoinHostPort(c.network().Gateway().String(), apiPort)
	}
	return c.servers()[0].apiServer()
}

const apiPort = "6443"

func (m Member) apiServer() string { return "https://" + net.JoinHostPort(m.Address.String(), apiPort) }

// apiServers are the URLs of all servers but the one called name, those that are on first. Each name begins at another.
func (c *Cluster) apiServers(name string) []string {
	var on, off []string
	for _, m := range c.servers() {
		switch {
		case m.Name == name:
		case m.Off:
			off = append(off, m.apiServer())
		default:
			on = append(on, m.apiServer())
		}
	}
	if len(on) > 0 {
		first := int(crc32.ChecksumIEEE([]byte(name))) % len(on)
		on = append(on[first:], on[:first]...)
	}
	return append(on, off...)
}

// eachNode runs f for all members at once and joins what went wrong.
func (c *Cluster) eachNode(ctx context.Context, members []Member, f func(context.Context, Member) error) error {
	failures := make(chan error, len(members))
	for _, m := range members {
		go func() { failures <- f(ctx, m) }()
	}
	var all error
	for range members {
		all = errors.Join(all, <-failures)
	}
	return all
}
