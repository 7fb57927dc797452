package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/pki"
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

// AddNode adds a worker, or another server, and waits until it is Ready. It joins as a machine elsewhere would: with a token.
func (c *Cluster) AddNode(ctx context.Context, role Role) (Member, error) {
	added, err := c.addMember(role)
	if err != nil {
		return Member{}, err
	}
	m, err := c.Member(added.Name)
	if err != nil {
		return Member{}, err
	}
	m.Invited = true
	if err := c.invite(ctx, *m); err != nil {
		return Member{}, err
	}
	if err := c.save(); err != nil {
		return Member{}, err
	}
	if err := c.startNode(ctx, *m); err != nil {
		return Member{}, err
	}
	if role == Server {
		if err := c.joined(ctx, *m); err != nil {
			return Member{}, err
		}
	}
	api, err := c.connect()
	if err != nil {
		return Member{}, err
	}
	return *m, api.waitNodes(ctx, []Member{*m})
}

// invitationLife is how long the token of an added node counts.
const invitationLife = time.Hour

// invite leaves a token in the new node.
func (c *Cluster) invite(ctx context.Context, m Member) error {
	api, err := c.connect()
	if err != nil {
		return err
	}
	var token string
	if m.Role == Server {
		var files map[string][]byte
		if files, err = pki.ReadShared(c.PKIDir()); err != nil {
			return err
		}
		token, err = bootstraptoken.CreateServer(ctx, api.client, invitationLife, files)
	} else {
		token, err = bootstraptoken.Create(ctx, api.client, invitationLife)
	}
	if err != nil {
		return err
	}
	return writeFile(c.Node(m).StatePath(joinToken), []byte(token+"\n"), 0o600)
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
	if m.Role == Server { // while it lives: of two members none can be removed once one is dead
		if err := c.removeEtcdMember(ctx, name); err != nil {
			return err
		}
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
