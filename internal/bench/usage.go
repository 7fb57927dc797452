package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Usage is what processes have used: CPU time so far, with that of their children that have ended, and bytes of memory: now, all of it and what no file stands behind, and the most
// that they ever had.
type Usage struct {
	CPU                  time.Duration
	RSS, Anonymous, Peak int64
}

// ticksPerSecond is the unit of /proc/PID/stat, USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// UsageOf reads the usage of processes together.
func UsageOf(pids []int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		ticks, err := cpuTicks(pid)
		if err != nil {
			return Usage{}, err
		}
		sum.CPU += time.Duration(ticks) * time.Second / ticksPerSecond
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return Usage{}, err
		}
		for line := range strings.Lines(string(status)) {
			var kb int64
			for name, field := range map[string]*int64{"VmRSS": &sum.RSS, "RssAnon": &sum.Anonymous, "VmHWM": &sum.Peak} {
				if n, _ := fmt.Sscanf(line, name+": %d kB", &kb); n == 1 {
					*field += kb << 10
				}
			}
		}
	}
	return sum, nil
}

// cpuTicks is the time that a process and its children that have ended have run, in user mode and in the kernel.
func cpuTicks(pid int) (int64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may hold anything.
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat: unexpected form", pid)
	}
	var sum int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += ticks
	}
	return sum, nil
}

// Wakeups is how often the threads of a process that live now have gone to sleep so far, and so were woken.
func Wakeups(pid int) (int64, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		var n int64
		if _, err := fmt.Sscan(rest, &n); err != nil {
			return 0, fmt.Errorf("%s: unexpected form", path)
		}
		sum += n
	}
	return sum, nil
}

// Median is the middle one of a figure of several runs.
func Median[R any, T cmp.Ordered](runs []R, of func(R) T) T {
	values := make([]T, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// creators is how many clients work at once: enough to keep an API server busy on a few cores.
const creators = 16

// Parallel calls f for 0…n-1, many at once, and returns the first error.
func Parallel(ctx context.Context, n int, f func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}
