package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// freezePatience is how long the node's processes may take to come to a point where they can be frozen: some cannot be for a while, such as
// the parent of a process that is just being made.
const freezePatience = 30 * time.Second

// Freeze stops every process of the node where it is; Thaw lets them go on.
func (n *Node) Freeze(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, freezePatience, true, func(ctx context.Context) (bool, error) {
		last = n.runc(ctx, "pause", n.id())
		return last == nil || !strings.Contains(last.Error(), "unable to freeze"), nil
	})
	return errors.Join(err, last)
}

// Thaw is the opposite of Freeze.
func (n *Node) Thaw(ctx context.Context) error { return n.runc(ctx, "resume", n.id()) }

// Wake lets a node go on that is frozen as a whole, or whose pods are.
func (n *Node) Wake(ctx context.Context) error {
	status, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if status == Frozen {
		if err := n.Thaw(ctx); err != nil {
			return err
		}
	}
	return n.freezePods(ctx, false)
}

// FreezePods stops the pods of the node where they are, while its own services go on. A node without pods is left alone.
func (n *Node) FreezePods(ctx context.Context) error { return n.freezePods(ctx, true) }

func (n *Node) freezePods(ctx context.Context, frozen bool) error {
	v1, v2 := "THAWED", "0"
	if frozen {
		v1, v2 = "FROZEN", "1"
	}
	below := filepath.Join(n.cgroup(), "kubepods")
	for _, group := range []struct{ control, word, state, done string }{
		{"/sys/fs/cgroup/freezer" + below + "/freezer.state", v1, "/sys/fs/cgroup/freezer" + below + "/freezer.state", v1},
		{"/sys/fs/cgroup" + below + "/cgroup.freeze", v2, "/sys/fs/cgroup" + below + "/cgroup.events", "frozen " + v2},
	} {
		err := os.WriteFile(group.control, []byte(group.word), 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("freeze or thaw pods of %s: %w", n.Name, err)
		}
		// The kernel tells by no event that can be waited for on both versions of cgroups.
		err = wait.PollUntilContextCancel(ctx, time.Millisecond, true, func(context.Context) (bool, error) {
			state, err := os.ReadFile(group.state)
			return slices.Contains(strings.Split(string(state), "\n"), group.done), err
		})
		if err != nil {
			return fmt.Errorf("freeze or thaw pods of %s: %w", n.Name, err)
		}
	}
	return nil
}
