package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// gcPercent is how much a heap may grow between two collections, in percent of what is in use. Go's 100 would let an idle
	// control plane keep 30 MB of garbage; docs/performance.md has what the difference costs.
	gcPercent = 50
	// settled is when a start, which allocates many times what stays, is over for sure. Until then time counts more than memory.
	settled = 20 * time.Second
)

// keepSmall gives back the memory that the start has taken, and collects garbage more eagerly from then on: memory of a node is for
// its pods. A GOGC in the environment stands.
func keepSmall(ctx context.Context) {
	timer := time.AfterFunc(settled, func() {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		runtime.GC() // pools give up what they hold only in the second collection
		debug.FreeOSMemory()
	})
	context.AfterFunc(ctx, func() { timer.Stop() })
}
