package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
	"keelson.dev/lab/addons"
	"keelson.dev/lab/images"
	"keelson.dev/lab/network"
	"keelson.dev/lab/supervisor"
)

// Options say what a new cluster looks like and what to wait for.
type Options struct {
	Name    string
	Servers int // 0: one
	Workers int
	Bundle  string
	Demo    bool
	// ServerArgs are further flags of keelson server, for a new cluster.
	ServerArgs []string
	// AgentArgs are the same for keelson agent.
	AgentArgs []string
	// Routed puts the machine as a router between the nodes of a new cluster, which share no link then.
	Routed bool
	// Upstreams are registries that a new cluster asks in the place of others, as host[:port] by name.
	Upstreams map[string]string
	// Etcd is what a new cluster uses in place of its servers' own.
	Etcd    ExternalEtcd
	Timeout time.Duration
	// Kubeconfig is the file that gets the cluster's context; empty leaves the user's files alone.
	Kubeconfig string
	// Step is told what is being done.
	Step func(format string, args ...any)
}

// Up makes the cluster, or brings back the one of that name as it was, and returns when it serves: every node Ready, DNS
// answering. It can be run again after it was killed.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	if err := Preflight(options.Bundle); err != nil {
		return nil, err
	}
	c, err := Open(options.Name, options.Bundle)
	if errors.Is(err, ErrNotFound) {
		c, err = create(options.Name, options.Bundle)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.whole(); err != nil {
		return nil, err
	}
	if err := c.populate(options); err != nil {
		return nil, err
	}
	if err := c.start(ctx, options); err != nil {
		return nil, err
	}
	return c, c.settle(ctx, options)
}

// whole is an error while a restore has been cut short.
func (c *Cluster) whole() error {
	if c.Restoring == "" {
		return nil
	}
	return fmt.Errorf("cluster %s is half restored: keelson --name %[1]s snapshot restore %s", c.Name, c.Restoring)
}

// populate adds the members of a new cluster.
func (c *Cluster) populate(options Options) error {
	if len(c.Members) > 0 {
		return nil
	}
	c.ServerArgs, c.AgentArgs, c.Routed = options.ServerArgs, options.AgentArgs, options.Routed
	c.Upstreams = options.Upstreams
	if err := c.useEtcd(options.Etcd); err != nil {
		return err
	}
	roles := slices.Concat(slices.Repeat([]Role{Server}, max(1, options.Servers)), slices.Repeat([]Role{Worker}, options.Workers))
	for _, role := range roles {
		if _, err := c.addMember(role); err != nil {
			return err
		}
	}
	return c.save()
}

// start brings up the machine's part and all nodes.
func (c *Cluster) start(ctx context.Context, options Options) error {
	options.Step("network %s on %s", c.Subnet, c.network().Bridge())
	if err := c.network().Up(ctx); err != nil {
		return err
	}
	if len(c.Faults) > 0 { // a reboot has mended the network
		if err := c.disturb(ctx); err != nil {
			return err
		}
	}
	server := c.servers()[0]
	if err := pki.EnsureServer(c.PKIDir(), pki.Server{Name: server.Name, DNSDomain: c.DNSDomain}, time.Now()); err != nil {
		return err
	}
	options.Step("registry on %s", c.registryAddress())
	if err := c.startRegistry(ctx); err != nil {
		return err
	}
	if err := c.startBalancer(ctx); err != nil {
		return err
	}
	options.Step("nodes %s", c.memberNames())
	return c.eachNode(ctx, c.Members, func(ctx context.Context, m Member) error {
		if m.Off {
			return nil
		}
		if err := c.startNode(ctx, m); err != nil {
			return err
		}
		return c.Node(m).Wake(ctx) // of one that a save which was killed has left still
	})
}

func (c *Cluster) startNode(ctx context.Context, m Member) error {
	services, err := c.furnish(m)
	if err != nil {
		return err
	}
	return c.Node(m).Start(ctx, services)
}

// furnish writes the files that a node starts from, and returns what it is to run.
func (c *Cluster) furnish(m Member) ([]supervisor.Service, error) {
	if m.Role == Server && !m.Invited {
		if err := c.writeServerFiles(m); err != nil {
			return nil, fmt.Errorf("node %s: %w", m.Name, err)
		}
	}
	if err := c.writeNodeFiles(m); err != nil {
		return nil, fmt.Errorf("node %s: %w", m.Name, err)
	}
	services, err := c.services(m)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", m.Name, err)
	}
	return services, nil
}

// settle waits for the API, applies the addons and waits until the cluster serves.
func (c *Cluster) settle(ctx context.Context, options Options) error {
	entry, err := c.writeKubeconfig()
	if err != nil {
		return err
	}
	if options.Kubeconfig != "" {
		if err := kubeconfig.Merge(options.Kubeconfig, entry); err != nil {
			return err
		}
	}
	options.Step("control plane at %s", c.APIServer())
	if err := c.waitServers(ctx, c.living()); err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	replicas := min(2, max(1, len(c.Members)-1))
	dns := addons.DNS{Domain: c.DNSDomain, DNSAddress: c.DNSAddress, Image: images.CoreDNS, Replicas: replicas}
	if err := addons.Apply(ctx, api.dynamic, "coredns", dns); err != nil {
		return err
	}
	if options.Demo {
		if err := addons.Apply(ctx, api.dynamic, "demo", addons.Demo{Image: images.Demo}); err != nil {
			return err
		}
	}
	options.Step("nodes to be Ready")
	if err := api.waitNodes(ctx, c.Members); err != nil {
		return err
	}
	for _, f := range c.Fleets {
		if !f.Off {
			options.Step("hollow nodes %s", f.Name)
			if err := c.admitFleet(ctx, f); err != nil {
				return err
			}
			if err := c.fleetDaemon(f).start(ctx); err != nil {
				return err
			}
		}
	}
	options.Step("DNS to answer")
	if err := c.waitDNS(ctx); err != nil {
		return err
	}
	if options.Demo {
		options.Step("demo to be available")
		return api.waitDeployment(ctx, "demo", "demo")
	}
	return nil
}

// writeKubeconfig writes the administrator's kubeconfig.
func (c *Cluster) writeKubeconfig() (kubeconfig.Entry, error) {
	entry, err := c.adminEntry()
	if err != nil {
		return entry, err
	}
	return entry, kubeconfig.Write(c.KubeconfigPath(), entry)
}

// KubeconfigPath is the administrator's kubeconfig of this cluster alone.
func (c *Cluster) KubeconfigPath() string { return filepath.Join(c.dir(), "kubeconfig") }

func (c *Cluster) memberNames() string {
	var names strings.Builder
	for i, m := range c.Members {
		if i > 0 {
			names.WriteString(", ")
		}
		names.WriteString(m.Name)
	}
	return names.String()
}

// Down ends the cluster. With keep its data stays and Up brings it back; otherwise nothing of it is left but the machine's images.
func (c *Cluster) Down(ctx context.Context, keep bool, kubeconfigPath string) error {
	err := c.eachNode(ctx, c.Members, func(ctx context.Context, m Member) error {
		if keep {
			return c.stopNode(ctx, m)
		}
		return c.Node(m).Remove(ctx)
	})
	if err != nil {
		return err
	}
	if err := c.stopDaemons(ctx); err != nil {
		return err
	}
	if len(c.Faults) > 0 {
		if err := c.network().Disturb(ctx, network.Disturbance{}); err != nil {
			return err
		}
	}
	if err := c.network().Down(ctx); err != nil {
		return err
	}
	if keep {
		return nil
	}
	if kubeconfigPath != "" {
		if err := kubeconfig.Remove(kubeconfigPath, c.Name); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.dir()); err != nil {
		return fmt.Errorf("remove cluster %s: %w", c.Name, err)
	}
	return nil
}
