package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what processes have used: CPU time so far, and bytes of memory now, all of it and what no file stands behind.
type usage struct {
	cpu            time.Duration
	rss, anonymous int64
}

// ticksPerSecond is the unit of /proc/PID/stat, USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		ticks, err := cpuTicks(pid)
		if err != nil {
			return usage{}, err
		}
		sum.cpu += time.Duration(ticks) * time.Second / ticksPerSecond
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return usage{}, err
		}
		for line := range strings.Lines(string(status)) {
			var kb int64
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
				sum.rss += kb << 10
			}
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); err == nil {
				sum.anonymous += kb << 10
			}
		}
	}
	return sum, nil
}

// cpuTicks is the time that a process has run, in user mode and in the kernel.
func cpuTicks(pid int) (int64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may hold anything.
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: unexpected form", pid)
	}
	var sum int64
	for _, field := range fields[11:13] { // utime, stime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += ticks
	}
	return sum, nil
}
