package cluster

import (
	"context"
	"fmt"
	"net"
	"os"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/serverpool"
)

// balancerDaemon leads clients on the machine to a server that is ready.
func (c *Cluster) balancerDaemon() daemon {
	return c.daemon("balancer", "balancer", "--name", c.Name)
}

// startBalancer runs the balancer where there is something to balance.
func (c *Cluster) startBalancer(ctx context.Context) error {
	if !c.Balanced {
		return nil
	}
	return c.balancerDaemon().start(ctx)
}

// ServeAPI leads clients of the machine's address to a server that is ready until ctx ends, and says on ready when it listens. Servers
// that come and go are found in the cluster's state.
func (c *Cluster) ServeAPI(ctx context.Context, ready *os.File) error {
	authority, err := c.authority()
	if err != nil {
		return err
	}
	pool, err := serverpool.New(authority, func() []string {
		now, err := View(c.Name, c.bundle)
		if err != nil || len(now.servers()) == 0 {
			now = c
		}
		var servers []string
		for _, m := range now.servers() {
			servers = append(servers, net.JoinHostPort(m.Address.String(), apiPort))
		}
		return servers
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(c.network().Gateway().String(), apiPort))
	if err != nil {
		return fmt.Errorf("balance the API: %w", err)
	}
	fmt.Fprintln(ready, "ready")
	ready.Close()
	return pool.Serve(ctx, listener)
}

// joined returns once a new server is ready, and has the machine's clients reach all servers: where there was one before, they knew
// its address only.
func (c *Cluster) joined(ctx context.Context, m Member) error {
	if err := c.startBalancer(ctx); err != nil {
		return err
	}
	entry, err := c.writeKubeconfig()
	if err != nil {
		return err
	}
	if err := kubeconfig.Refresh(kubeconfig.UserPath(), entry); err != nil {
		return err
	}
	return c.waitServers(ctx, []Member{m})
}
