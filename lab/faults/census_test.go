package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Variables in the environment of the processes that a census counts.
const (
	podVariable = "FAULTS_POD"
	uidVariable = "FAULTS_POD_UID"
)

// settled is the age from which a process is looked at each settled only: what a young one is may change, since a container's process is
// runc's at first.
const settled = 5 * time.Second

// life is a process of a pod on a node, which was there from first to last, and maybe before and after.
type life struct {
	pod, uid, node string
	pid            int
	start          string // tells processes apart that had the same ID one after the other
	first, last    time.Time
}

func (l *life) String() string {
	return fmt.Sprintf("on %s (uid %s, pid %d, seen %s to %s)", l.node, l.uid, l.pid, l.first.Format(clockLayout), l.last.Format(clockLayout))
}

const clockLayout = "15:04:05.000"

// stranger is a process that is none of a pod's, as far as one knows.
type stranger struct{ met, looked time.Time }

// census knows which pods of a cluster really run where, whatever the API says: nodes are namespaces of the machine, which sees all
// processes, frozen ones too.
type census struct {
	proc, group string // /proc, and the part of a control group's path before the node's name
	strangers   map[int]stranger
	alive       map[int]*life
	lives       []*life
	scans       int
}

func newCensus(proc, cluster string) *census {
	return &census{proc: proc, group: "/keelson/" + cluster + "/", strangers: map[int]stranger{}, alive: map[int]*life{}}
}

// scan looks at all processes.
func (c *census) scan() error {
	dir, err := os.Open(c.proc)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	c.scans++
	before := c.strangers
	c.strangers = make(map[int]stranger, len(before))
	for pid, l := range c.alive {
		now := time.Now() // before the look: it was alive then
		if start, ok := c.running(pid); !ok || start != l.start {
			delete(c.alive, pid)
			continue
		}
		l.last = now
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || c.alive[pid] != nil {
			continue
		}
		now := time.Now()
		s, known := before[pid]
		if !known {
			s.met = now
		}
		if now.Sub(s.met) < settled || now.Sub(s.looked) > settled {
			s.looked = now
			if l := c.look(pid); l != nil {
				c.alive[pid], c.lives = l, append(c.lives, l)
				continue
			}
		}
		c.strangers[pid] = s
	}
	return nil
}

// look returns the process if it is a pod's. What cannot be read has ended.
func (c *census) look(pid int) *life {
	environment, _ := os.ReadFile(c.path(pid, "environ"))
	pod := variable(environment, podVariable)
	if pod == "" {
		return nil
	}
	groups, _ := os.ReadFile(c.path(pid, "cgroup"))
	_, below, found := strings.Cut(string(groups), c.group)
	start, running := c.running(pid)
	if !found || !running {
		return nil
	}
	node, _, _ := strings.Cut(strings.SplitN(below, "\n", 2)[0], "/")
	now := time.Now() // after the look: it was there before
	return &life{pod: pod, uid: variable(environment, uidVariable), node: node, pid: pid, start: start, first: now, last: now}
}

// running tells whether a process has not ended, and when it began, in ticks since the machine did.
func (c *census) running(pid int) (string, bool) {
	stat, _ := os.ReadFile(c.path(pid, "stat"))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", false
	}
	return fields[19], true
}

func (c *census) path(pid int, file string) string {
	return filepath.Join(c.proc, strconv.Itoa(pid), file)
}

func variable(environment []byte, name string) string {
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if value, found := bytes.CutPrefix(entry, []byte(name+"=")); found {
			return string(value)
		}
	}
	return ""
}

// together are the pairs of processes that ran at the same moment on two nodes under the name of one pod.
func together(lives []*life) []string {
	var found []string
	for i, a := range lives {
		for _, b := range lives[:i] {
			from, to := a.first, a.last
			if b.first.After(from) {
				from = b.first
			}
			if b.last.Before(to) {
				to = b.last
			}
			if a.pod == b.pod && a.node != b.node && from.Before(to) {
				found = append(found, fmt.Sprintf("pod %s ran %s and %s at once, for %s at least", a.pod, b, a, to.Sub(from)))
			}
		}
	}
	return found
}

// moves counts for each pod how often it went on on another node.
func moves(lives []*life) map[string]int {
	ordered := slices.SortedFunc(slices.Values(lives), func(a, b *life) int { return a.first.Compare(b.first) })
	moved, last := map[string]int{}, map[string]string{}
	for _, l := range ordered {
		if at, seen := last[l.pod]; !seen {
			moved[l.pod] = 0
		} else if at != l.node {
			moved[l.pod]++
		}
		last[l.pod] = l.node
	}
	return moved
}

func TestTogether(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	lives := func(all ...life) []*life {
		var list []*life
		for i := range all {
			list = append(list, &all[i])
		}
		return list
	}
	for name, test := range map[string]struct {
		lives []*life
		want  int
		moves int // of pod a
	}{
		"Moved": {lives(
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "a", node: "2", first: at(11), last: at(20)},
		), 0, 1},
		"SeenInOneScan": {lives( // the first may have ended before the second began
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "a", node: "2", first: at(10), last: at(20)},
		), 0, 1},
		"SeenOnce": {lives(
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "a", node: "2", first: at(5), last: at(5)},
		), 0, 1},
		"AtOnce": {lives(
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "a", node: "2", first: at(9), last: at(20)},
		), 1, 1},
		"Within": {lives(
			life{pod: "a", node: "2", first: at(4), last: at(5)},
			life{pod: "a", node: "1", first: at(0), last: at(10)},
		), 1, 1},
		"OtherPod": {lives(
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "b", node: "2", first: at(0), last: at(10)},
		), 0, 0},
		"SameNode": {lives( // a container that was started again, or two of one pod
			life{pod: "a", node: "1", pid: 1, first: at(0), last: at(10)},
			life{pod: "a", node: "1", pid: 2, first: at(0), last: at(10)},
		), 0, 0},
		"LastOfMany": {lives(
			life{pod: "a", node: "1", first: at(0), last: at(10)},
			life{pod: "a", node: "2", first: at(11), last: at(20)},
			life{pod: "a", node: "3", first: at(21), last: at(30)},
			life{pod: "a", node: "2", first: at(29), last: at(40)},
		), 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if found := together(test.lives); len(found) != test.want {
				t.Errorf("found %q, want %d", found, test.want)
			}
			if n := moves(test.lives)["a"]; n != test.moves {
				t.Errorf("%d moves, want %d", n, test.moves)
			}
		})
	}
}

// TestCensus lets processes come, become a pod's, be frozen, die and leave their IDs to others.
func TestCensus(t *testing.T) {
	proc := t.TempDir()
	c := newCensus(proc, "lab")
	set := func(pid int, node, pod, state, start string) {
		t.Helper()
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{
			"environ": "PATH=/bin\x00" + podVariable + "=" + pod + "\x00" + uidVariable + "=u\x00",
			"cgroup":  "12:pids:/keelson/lab/" + node + "/kubepods/pod1/abc\n0::/\n",
			"stat":    strconv.Itoa(pid) + " (a (b) c) " + state + strings.Repeat(" 0", 18) + " " + start + " 0 0\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	scan := func(want ...string) {
		t.Helper()
		if err := c.scan(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for pid, l := range c.alive {
			got = append(got, fmt.Sprintf("%s on %s, %d", l.pod, l.node, pid))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("alive: %q, want %q", got, want)
		}
	}
	set(1, "server-1", "", "S", "5") // runc's still
	set(2, "server-2", "b", "S", "6")
	scan("b on server-2, 2")
	set(1, "server-1", "a", "S", "5")
	set(3, "server-3/else", "a", "Z", "7")
	scan("a on server-1, 1", "b on server-2, 2")
	set(2, "server-2", "b", "D", "6")
	set(3, "server-3", "a", "R", "8")
	scan("a on server-1, 1", "a on server-3, 3", "b on server-2, 2")
	if found := together(c.lives); len(found) != 0 {
		t.Errorf("found %q in one scan, which proves nothing", found)
	}
	scan("a on server-1, 1", "a on server-3, 3", "b on server-2, 2")
	if found := together(c.lives); len(found) != 1 {
		t.Errorf("found %q, want one", found)
	}
	set(1, "server-1", "a", "Z", "5")
	set(2, "server-1", "c", "S", "9") // another process of that ID
	scan("a on server-3, 3", "c on server-1, 2")
	if err := os.RemoveAll(filepath.Join(proc, "3")); err != nil {
		t.Fatal(err)
	}
	scan("c on server-1, 2")
	if len(c.lives) != 4 {
		t.Errorf("%d lives, want 4", len(c.lives))
	}
}
