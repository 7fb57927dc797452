package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
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
		median(runs, func(r result) float64 { return r.perSecond }),
		median(runs, func(r result) time.Duration { return r.p50 }).Round(time.Millisecond),
		median(runs, func(r result) time.Duration { return r.p99 }).Round(time.Millisecond),
		median(runs, func(r result) time.Duration { return perPod(r.schedulerCPU, r) }).Round(10*time.Microsecond),
		median(runs, func(r result) time.Duration { return perPod(r.rest, r) }).Round(10*time.Microsecond),
		median(runs, func(r result) int64 { return r.schedulerRSS })>>20)
}

func median[T cmp.Ordered](runs []result, of func(result) T) T {
	values := make([]T, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
