package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// serialTests must not run beside others.
const serialTests = `\[Serial\]|\[Disruptive\]`

// runAll runs what the focus selects, the serial tests apart, and writes the scoreboard. Failed tests are an error.
func (h *harness) runAll(ctx context.Context) error {
	results, err := h.both(ctx, h.focus, h.skip)
	if err != nil {
		return err
	}
	return h.report("Conformance", results)
}

// both runs the parallel tests and then the serial ones.
func (h *harness) both(ctx context.Context, focus, skip string) ([]result, error) {
	all, err := h.names(ctx, focus, skip)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no test matches %q", focus)
	}
	isSerial := regexp.MustCompile(serialTests)
	serial := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !isSerial.MatchString(name) })
	var results []result
	if len(all) > len(serial) {
		parallel, err := h.execute(ctx, pass{
			name: "parallel", focus: focus, skip: joinPatterns(skip, serialTests), procs: h.procs, expected: len(all) - len(serial),
		})
		if err != nil {
			return nil, err
		}
		results = append(results, ran(parallel)...)
	}
	if len(serial) > 0 && ctx.Err() == nil {
		alone, err := h.execute(ctx, pass{
			name: "serial", focus: exactly(serial), skip: skip, procs: 1, expected: len(serial),
		})
		if err != nil {
			return nil, err
		}
		results = append(results, ran(alone)...)
	}
	return results, nil
}

// report writes the scoreboard and prints it.
func (h *harness) report(title string, results []result) error {
	page := scoreboard(title, results)
	if err := os.WriteFile(filepath.Join(h.out, "scoreboard.md"), []byte(page), 0o644); err != nil {
		return err
	}
	passing := append(named(results, passed), "")
	if err := os.WriteFile(filepath.Join(h.out, "passed.txt"), []byte(strings.Join(passing, "\n")), 0o644); err != nil {
		return err
	}
	fmt.Println(page)
	fmt.Println("results:", h.out)
	if failures := named(results, failed); len(failures) > 0 {
		return fmt.Errorf("%d tests failed", len(failures))
	}
	return nil
}

// ratchet runs exactly the tests of the passing list. A test that fails twice is lost, and an error.
func (h *harness) ratchet(ctx context.Context) error {
	wanted, err := h.passing()
	if err != nil {
		return err
	}
	return h.mustPass(ctx, wanted)
}

// slice runs a part of the passing list that touches every SIG; the seed rotates which part.
func (h *harness) slice(ctx context.Context) error {
	wanted, err := h.passing()
	if err != nil {
		return err
	}
	return h.mustPass(ctx, choose(wanted, h.count, h.seed))
}

func (h *harness) mustPass(ctx context.Context, wanted []string) error {
	results, err := h.both(ctx, exactly(wanted), "")
	if err != nil {
		return err
	}
	ok := named(results, passed)
	missing := slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return slices.Contains(ok, name) })
	if len(missing) > 0 {
		fmt.Printf("trying %d again\n", len(missing))
		first := h.out
		h.out = filepath.Join(first, "again")
		again, err := h.both(ctx, exactly(missing), "")
		if err != nil {
			return err
		}
		h.out = first
		for _, name := range named(again, passed) {
			fmt.Println("flake:", name)
			missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
		}
	}
	for _, name := range missing {
		fmt.Println("lost:", name)
	}
	fmt.Printf("%d passed, %d failed\n", len(wanted)-len(missing), len(missing))
	if len(missing) > 0 {
		return errors.New("tests that used to pass are lost")
	}
	return nil
}

func (h *harness) passing() ([]string, error) {
	data, err := os.ReadFile(h.passingFile)
	if err != nil {
		return nil, fmt.Errorf("read passing list: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		if name := strings.TrimSpace(line); name != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("passing list %s is empty", h.passingFile)
	}
	return names, nil
}

// choose takes count names, from every SIG in proportion and at least one of each, starting where the seed says. Serial and slow
// tests are left to the whole ratchet.
func choose(names []string, count int, seed string) []string {
	bySIG := map[string][]string{}
	total := 0
	for _, name := range names {
		if strings.Contains(name, "[Serial]") || strings.Contains(name, "[Slow]") || strings.Contains(name, "[Disruptive]") {
			continue
		}
		bySIG[sigOf(name)] = append(bySIG[sigOf(name)], name)
		total++
	}
	hash := fnv.New32a()
	hash.Write([]byte(seed))
	var chosen []string
	for _, group := range bySIG {
		share := min(len(group), max(1, count*len(group)/max(total, 1)))
		start := int(hash.Sum32() % uint32(len(group)))
		for i := range share {
			chosen = append(chosen, group[(start+i)%len(group)])
		}
	}
	slices.Sort(chosen)
	return chosen
}

// exactly is the pattern that matches these tests and no others.
func exactly(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "(" + strings.Join(quoted, "|") + ")$"
}

func joinPatterns(patterns ...string) string {
	return strings.Join(slices.DeleteFunc(patterns, func(p string) bool { return p == "" }), "|")
}
