package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what processes have used: CPU time so far, and bytes of memory now.
type usage struct {
	cpu time.Duration
	rss int64
}

// ticksPerSecond is the unit of /proc/PID/stat, USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return usage{}, err
		}
		// The second field is the name in parentheses, which may hold anything.
		_, rest, ok := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 22 {
			return usage{}, fmt.Errorf("/proc/%d/stat: unexpected form", pid)
		}
		var numbers [3]int64
		for i, at := range []int{11, 12, 21} { // utime, stime, rss in pages
			if numbers[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
				return usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
		}
		sum.cpu += time.Duration(numbers[0]+numbers[1]) * time.Second / ticksPerSecond
		sum.rss += numbers[2] * int64(os.Getpagesize())
	}
	return sum, nil
}
