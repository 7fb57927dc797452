// Command keelson-node is the first process of a node: it prepares the node's mounts, control groups and kernel settings, and keeps
// the node's services running. It is small on purpose: it stays in memory on every node.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"keelson.dev/lab/node/host"
	"keelson.dev/lab/supervisor"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "keelson-node:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: keelson-node SERVICES.json")
	}
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	var services []supervisor.Service
	if err := json.Unmarshal(data, &services); err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	if err := host.Prepare(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return supervisor.Run(ctx, services)
}
