package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"keelson.dev/lab/node"
)

// stopGrace is how long a node's services may take to stop in order before its power is cut.
const stopGrace = 15 * time.Second

// stopNode stops the services of a node in order and then ends it.
func (c *Cluster) stopNode(ctx context.Context, m Member) error {
	n := c.Node(m)
	status, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if status == node.Running {
		if err := n.Signal(ctx, "TERM"); err != nil {
			return err
		}
		// runc offers no event for the end of a detached container.
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, stopGrace, true, func(ctx context.Context) (bool, error) {
			status, err := n.Status(ctx)
			return status == node.Off, err
		})
		if err != nil && !wait.Interrupted(err) {
			return err
		}
	}
	return n.Kill(ctx)
}

// AddNode adds a worker and waits until it is Ready.
func (c *Cluster) AddNode(ctx context.Context) (Member, error) {
	m, err := c.addMember(Worker)
	if err != nil {
		return Member{}, err
	}
	if err := c.save(); err != nil {
		return Member{}, err
	}
	if err := c.startNode(ctx, m); err != nil {
		return Member{}, err
	}
	api, err := c.connect()
	if err != nil {
		return Member{}, err
	}
	return m, api.waitNodes(ctx, []Member{m})
}

// RemoveNode drains nothing: it ends the node, deletes its Node object and forgets it. A fleet of hollow nodes goes as a whole.
func (c *Cluster) RemoveNode(ctx context.Context, name string) error {
	if f := c.fleet(name); f != nil {
		return c.removeFleet(ctx, *f)
	}
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	if m.Role == Server && len(c.servers()) == 1 {
		return fmt.Errorf("node %s is the only server: keelson down removes the cluster", name)
	}
	if err := c.Node(*m).Remove(ctx); err != nil {
		return err
	}
	api, err := c.connect()
	if err != nil {
		return err
	}
	if err := api.deleteNode(ctx, name); err != nil {
		return err
	}
	c.Members = slices.DeleteFunc(c.Members, func(m Member) bool { return m.Name == name })
	return c.save()
}

// KillNode cuts the node's power. It stays off until StartNode.
func (c *Cluster) KillNode(ctx context.Context, name string) error {
	if f := c.fleet(name); f != nil {
		f.Off = true
		return errors.Join(c.save(), c.fleetDaemon(*f).stop(ctx))
	}
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	m.Off = true
	if err := c.save(); err != nil {
		return err
	}
	return c.Node(*m).Kill(ctx)
}

// StartNode switches a node on again.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	if f := c.fleet(name); f != nil {
		f.Off = false
		return errors.Join(c.save(), c.fleetDaemon(*f).start(ctx))
	}
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	m.Off = false
	if err := c.save(); err != nil {
		return err
	}
	return c.startNode(ctx, *m)
}
