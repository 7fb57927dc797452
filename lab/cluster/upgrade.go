package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"keelson.dev/lab/node"
)

// Upgrade has a cluster that runs go on with the programs of the bundle in the options: what runs on the machine, then the servers and then
// the workers, one after the other, each once the one before it serves again. Pods go on all the time. It can be run again after it was
// killed, and with an older bundle to go back.
func Upgrade(ctx context.Context, options Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	if err := Preflight(options.Bundle); err != nil {
		return nil, err
	}
	c, err := Open(options.Name, options.Bundle)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.whole(); err != nil {
		return nil, err
	}
	for _, m := range c.Members {
		status, err := c.Node(m).Status(ctx)
		if err == nil && !m.Off && status != node.Running {
			err = fmt.Errorf("node %s is %s: keelson --name %s up brings all up with these programs", m.Name, status, c.Name)
		}
		if err != nil {
			return nil, err
		}
	}
	options.Step("registry and other programs on this machine")
	if err := errors.Join(c.stopDaemons(ctx), c.startRegistry(ctx), c.startBalancer(ctx)); err != nil {
		return nil, err
	}
	for _, role := range []Role{Server, Worker} {
		for _, m := range c.Members {
			if m.Role != role || m.Off {
				continue
			}
			options.Step("node %s", m.Name)
			if err := c.upgradeNode(ctx, m); err != nil {
				return nil, err
			}
		}
	}
	return c, c.settle(ctx, options)
}

func (c *Cluster) upgradeNode(ctx context.Context, m Member) error {
	services, err := c.furnish(m)
	if err != nil {
		return err
	}
	if err := c.Node(m).Upgrade(ctx, services); err != nil {
		return err
	}
	since := time.Now()
	if m.Role == Server {
		if err := c.waitServers(ctx, []Member{m}); err != nil {
			return err
		}
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	return api.waitHeartbeat(ctx, m.Name, since)
}

// waitHeartbeat returns once the node has sent one after that time.
func (a *api) waitHeartbeat(ctx context.Context, name string, since time.Time) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, readyPoll, true, func(ctx context.Context) (bool, error) {
		lease, err := a.client.CoordinationV1().Leases("kube-node-lease").Get(ctx, name, metav1.GetOptions{})
		last = err
		return err == nil && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(since), nil
	})
	if err != nil {
		return fmt.Errorf("node %s sends no heartbeat: %w", name, errors.Join(err, last))
	}
	return nil
}
