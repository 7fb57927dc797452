// Package heap decides how much memory a process keeps for garbage. Go's fixed percentage collects a small heap far too often under
// load and leaves a large one, or one that has seen load, with hundreds of megabytes of nothing: memory of a node is for its pods.
package heap

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// every is how often the heap is looked at: short beside what a person notices, long beside what a look costs.
	every = 5 * time.Second
	// quiet is the rate of allocation, in bytes per second, below which a process counts as resting.
	quiet = 2 << 20
	// minPercent and maxPercent bound the growth between two collections. A start allocates many times what stays.
	minPercent, maxPercent = 50, 400
)

// Keep tunes the garbage collector of this process until ctx is done: between two collections the heap grows by headroom bytes plus
// half of what is in use, and a process that rests after load gives back what the load has made it take. A GOGC in the environment
// stands, and then nothing is done.
func Keep(ctx context.Context, headroom uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(maxPercent)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		percent := maxPercent
		for before := read(); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			now := read()
			if next := percentFor(now.live, headroom); next != percent {
				debug.SetGCPercent(next)
				percent = next
			}
			if resting(before, now) && worthGivingBack(now, headroom) {
				debug.FreeOSMemory()
			}
			before = now
		}
	}()
}

// Percent sets how much the heap grows between two collections, in percent, unless a GOGC in the environment says so. It suits a
// process that needs memory less than Keep would give it.
func Percent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// reading is the heap at one time, in bytes.
type reading struct {
	live      uint64 // what the last collection left
	allocated uint64 // in all of the process's life
	surplus   uint64 // garbage and free memory that the system does not have back
}

func read() reading {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	r := reading{live: samples[0].Value.Uint64(), allocated: samples[1].Value.Uint64(), surplus: samples[3].Value.Uint64()}
	if objects := samples[2].Value.Uint64(); objects > r.live {
		r.surplus += objects - r.live
	}
	return r
}

// percentFor is GOGC for a heap of live bytes.
func percentFor(live, headroom uint64) int {
	if live == 0 { // nothing was collected yet
		return maxPercent
	}
	return int(min(minPercent+100*headroom/live, maxPercent))
}

func resting(before, now reading) bool {
	return now.allocated-before.allocated < quiet*uint64(every/time.Second)
}

// worthGivingBack compares with what a collection costs, which grows with the live heap.
func worthGivingBack(now reading, headroom uint64) bool {
	return now.surplus > (headroom+now.live)/4
}
