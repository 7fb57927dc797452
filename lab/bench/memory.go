package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keelson.dev/lab/cluster"
)

// memory reads the resident memory of the control plane and of an agent, once the cluster has rested.
func (b *bench) memory(ctx context.Context) error {
	c, err := cluster.View(b.name, b.bin)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.settle):
	}
	server := c.Members[0]
	for what, role := range map[string]string{"control plane with etcd, idle": "server", "agent (kubelet and proxy), idle": "agent"} {
		pid, err := processOf(role, server.Name, server.Address.String())
		if err != nil {
			return err
		}
		resident, err := residentMB(pid)
		if err != nil {
			return err
		}
		b.value(what, resident, "MB")
	}
	return nil
}

// processOf finds keelson's process of that role by its command line.
func processOf(role, node, address string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		if bytes.Contains(line, []byte("/keelson\x00"+role+"\x00--node-name\x00"+node+"\x00")) && bytes.Contains(line, []byte(address)) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("no process of the %s on %s", role, node)
}

func residentMB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kilobytes, err := strconv.Atoi(strings.Fields(value)[0])
			return float64(kilobytes) / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", pid)
}
