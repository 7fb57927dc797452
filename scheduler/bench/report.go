package main

import (
	"fmt"
	"io"
	"time"

	"keelson.dev/internal/bench"
)

func printHeader(w io.Writer) {
	fmt.Fprintln(w, "| case | nodes | combination | pods | pods/s | p50 | p99 | scheduler CPU per pod | API server and etcd CPU per pod | scheduler memory |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
}

// printRow prints the medians of a combination's runs.
func printRow(w io.Writer, name string, size int, combo string, runs []result) {
	if len(runs) == 0 {
		fmt.Fprintf(w, "| %s | %d | %s | failed | | | | | | |\n", name, size, combo)
		return
	}
	perPod := func(d time.Duration, r result) time.Duration { return d / time.Duration(max(r.pods, 1)) }
	fmt.Fprintf(w, "| %s | %d | %s | %d | %.0f | %s | %s | %s | %s | %d MB |\n", name, size, combo, runs[0].pods,
		bench.Median(runs, func(r result) float64 { return r.perSecond }),
		bench.Median(runs, func(r result) time.Duration { return r.p50 }).Round(time.Millisecond),
		bench.Median(runs, func(r result) time.Duration { return r.p99 }).Round(time.Millisecond),
		bench.Median(runs, func(r result) time.Duration { return perPod(r.schedulerCPU, r) }).Round(10*time.Microsecond),
		bench.Median(runs, func(r result) time.Duration { return perPod(r.rest, r) }).Round(10*time.Microsecond),
		bench.Median(runs, func(r result) int64 { return r.schedulerRSS })>>20)
}
