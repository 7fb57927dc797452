package cgroups

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HasSysResource reports whether this process may lower OOM scores and raise limits. Some containers and virtual machines lack
// the capability even for root; the runtime must then be told to restrict its OOM score adjustments.
func HasSysResource() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	return hasCapability(string(status), unix.CAP_SYS_RESOURCE)
}

func hasCapability(status string, capability int) bool {
	for line := range strings.Lines(status) {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		return err == nil && bits&(1<<capability) != 0
	}
	return false
}
