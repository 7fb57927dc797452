package profile

import (
	"context"
	"math"
	"sync"

	"k8s.io/client-go/util/workqueue"
)

// serialBelow is the number of pieces up to which starting goroutines costs more than it saves: a filter takes microseconds.
const serialBelow = 64

// Workers runs pieces of work in parallel. It implements fwk.Parallelizer.
type Workers struct{ Parallelism int }

// Until implements fwk.Parallelizer.
func (w Workers) Until(ctx context.Context, pieces int, do workqueue.DoWorkPieceFunc, _ string) {
	if pieces <= serialBelow || w.Parallelism < 2 {
		for i := 0; i < pieces && ctx.Err() == nil; i++ {
			do(i)
		}
		return
	}
	chunk := max(1, min(int(math.Sqrt(float64(pieces))), pieces/w.Parallelism+1))
	workqueue.ParallelizeUntil(ctx, w.Parallelism, pieces, do, workqueue.WithChunkSize(chunk))
}

// errorOnce keeps the first error that any of several goroutines reports.
type errorOnce struct {
	mu  sync.Mutex
	err error
}

func (e *errorOnce) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

func (e *errorOnce) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
