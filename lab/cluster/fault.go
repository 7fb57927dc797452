package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"keelson.dev/lab/network"
	"keelson.dev/lab/node"
)

// Fault is something that was broken on purpose, as the cluster remembers it until it is undone.
type Fault struct {
	Kind  string   `json:"kind"`
	Nodes []string `json:"nodes"`
	// From are the nodes on the other side of a partition.
	From    []string      `json:"from,omitempty"`
	Percent int           `json:"percent,omitempty"` // of frames that a lossy link loses
	Delay   time.Duration `json:"delay,omitempty"`   // in nanoseconds
	Writes  int           `json:"writes,omitempty"`  // a second that a slow disk takes
}

// The kinds of faults.
const (
	Partition = "partition"
	Loss      = "loss"
	Delay     = "delay"
	Kill      = "kill"
	Freeze    = "freeze"
	SlowDisk  = "slow-disk"
)

// String is the fault as people read it.
func (f Fault) String() string {
	text := f.Kind + " " + strings.Join(f.Nodes, ",")
	switch f.Kind {
	case Partition:
		text += " from " + strings.Join(f.From, ",")
	case Loss:
		text += fmt.Sprintf(" of %d %%", f.Percent)
	case Delay:
		text += " by " + f.Delay.String()
	case SlowDisk:
		text += fmt.Sprintf(" to %d writes a second", f.Writes)
	}
	return text
}

// Break does what the fault says. A partition from nothing in particular is one from all other nodes.
func (c *Cluster) Break(ctx context.Context, f Fault) error {
	if f.Kind == Partition && len(f.From) == 0 {
		for _, m := range c.Members {
			if !slices.Contains(f.Nodes, m.Name) {
				f.From = append(f.From, m.Name)
			}
		}
	}
	if f.Kind == SlowDisk && f.Writes < 1 {
		return fmt.Errorf("a slow disk takes at least one write a second, not %d", f.Writes)
	}
	for _, name := range slices.Concat(f.Nodes, f.From) {
		if _, err := c.Member(name); err != nil {
			return err
		}
	}
	c.Faults = append(c.Faults, f)
	if err := c.save(); err != nil { // before anything is broken: what was broken can be undone
		return err
	}
	if err := c.disturb(ctx); err != nil {
		return errors.Join(err, c.Undo(context.WithoutCancel(ctx)))
	}
	for _, name := range f.Nodes {
		var err error
		m, _ := c.Member(name)
		switch f.Kind {
		case Kill:
			err = c.KillNode(ctx, name)
		case Freeze:
			err = c.Node(*m).Freeze(ctx)
		case SlowDisk:
			err = c.Node(*m).SlowDisk(f.Writes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disturb makes the network as wrong as the remembered faults are.
func (c *Cluster) disturb(ctx context.Context) error {
	d := network.Disturbance{Losses: map[netip.Addr]int{}, Delays: map[netip.Addr]time.Duration{}}
	for _, f := range c.Faults {
		switch f.Kind {
		case Partition:
			d.Cuts = append(d.Cuts, network.Cut{A: c.addresses(f.Nodes), B: c.addresses(f.From)})
		case Loss:
			for _, address := range c.addresses(f.Nodes) {
				d.Losses[address] = f.Percent
			}
		case Delay:
			for _, address := range c.addresses(f.Nodes) {
				d.Delays[address] = f.Delay
			}
		}
	}
	return c.network().Disturb(ctx, d)
}

// addresses are those of the named nodes that are still there.
func (c *Cluster) addresses(names []string) []netip.Addr {
	var all []netip.Addr
	for _, name := range names {
		if m, err := c.Member(name); err == nil {
			all = append(all, m.Address)
		}
	}
	return all
}

// Undo mends all that Break has broken.
func (c *Cluster) Undo(ctx context.Context) error {
	broken := c.Faults
	c.Faults = nil
	all := c.disturb(ctx)
	for _, f := range broken {
		for _, name := range f.Nodes {
			m, err := c.Member(name)
			if err != nil {
				continue // it has been removed
			}
			switch status, err := c.Node(*m).Status(ctx); {
			case err != nil:
				all = errors.Join(all, err)
			case f.Kind == Kill && status == node.Off:
				all = errors.Join(all, c.StartNode(ctx, name))
			case f.Kind == Freeze && status == node.Frozen:
				all = errors.Join(all, c.Node(*m).Thaw(ctx))
			case f.Kind == SlowDisk && status != node.Off:
				all = errors.Join(all, c.Node(*m).SlowDisk(0))
			}
		}
	}
	if all != nil {
		c.Faults = broken // to be tried again
		return all
	}
	return c.save()
}

// Plague breaks one thing after the other, chosen by seed, each for a while, until ctx ends. say is told of each.
func (c *Cluster) Plague(ctx context.Context, seed uint64, every time.Duration, clock clock.Clock, say func(Fault)) error {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // the same seed has to break the same things
	for ctx.Err() == nil {
		f := c.choose(random)
		say(f)
		err := c.Break(ctx, f)
		if err == nil {
			pause(ctx, clock, every)
		}
		if err = errors.Join(err, c.Undo(context.WithoutCancel(ctx))); err != nil && ctx.Err() == nil {
			return err
		}
		pause(ctx, clock, every)
	}
	return nil
}

func pause(ctx context.Context, clock clock.Clock, long time.Duration) {
	select {
	case <-ctx.Done():
	case <-clock.After(long):
	}
}

// choose picks a fault of one node.
func (c *Cluster) choose(random *rand.Rand) Fault {
	kinds := map[string]Fault{Partition: {}, Loss: {Percent: 10 + random.IntN(40)}, Kill: {}, Freeze: {}}
	names := slices.Sorted(maps.Keys(kinds))
	kind := names[random.IntN(len(names))]
	f := kinds[kind]
	f.Kind, f.Nodes = kind, []string{c.Members[random.IntN(len(c.Members))].Name}
	return f
}
