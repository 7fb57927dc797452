package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"
)

// acceptance is a difference that stays, and why.
type acceptance struct {
	// Subject, Request and Difference are regular expressions; a difference is accepted if all match.
	Subject    string `json:"subject,omitempty"`
	Request    string `json:"request,omitempty"`
	Difference string `json:"difference"`
	Reason     string `json:"reason"`

	subject, request, difference *regexp.Regexp
	used                         bool
}

func readAccepted(file string) ([]*acceptance, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []*acceptance
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, a := range list {
		if a.Reason == "" {
			return nil, fmt.Errorf("%s: %q has no reason", file, a.Difference)
		}
		var err, err2, err3 error
		a.subject, err = regexp.Compile(a.Subject)
		a.request, err2 = regexp.Compile(a.Request)
		a.difference, err3 = regexp.Compile(a.Difference)
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return list, nil
}

// report collects differences; those that say the same of several places of a list count as one.
type report struct {
	accepted []*acceptance

	mutex     sync.Mutex
	compared  int
	tolerated int
	stages    map[string]int
	found     map[string]*finding
}

type finding struct {
	subject string // stage and kind
	what    string // the lines of the difference
	example string // the first request that showed it
	count   int
}

// compare adds the differences of one exchange. subject is the stage and the kind, example what was done.
func (r *report) compare(subject, example string, upstream, ours *answer) {
	r.add(subject, example, compare(upstream, ours))
}

func (r *report) add(subject, example string, lines []string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.compared++
	if r.stages == nil {
		r.stages, r.found = map[string]int{}, map[string]*finding{}
	}
	r.stages[subject]++
	lines = slices.DeleteFunc(lines, func(line string) bool { return r.tolerate(subject, example, line) })
	if len(lines) == 0 {
		return
	}
	what := strings.Join(lines, "\n    ")
	key := subject + "\n" + index.ReplaceAllString(what, "[*]")
	if r.found[key] == nil {
		r.found[key] = &finding{subject: subject, what: what, example: example}
	}
	r.found[key].count++
}

func (r *report) tolerate(subject, request, line string) bool {
	for _, a := range r.accepted {
		if a.subject.MatchString(subject) && a.request.MatchString(request) && a.difference.MatchString(line) {
			a.used = true
			r.tolerated++
			return true
		}
	}
	return false
}

// finish writes the report and fails if there is a difference, or, after a run of everything, an acceptance that nothing needed.
func (r *report) finish(dir string, took time.Duration, whole bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d comparisons in %s, %d differences accepted, %d kinds of difference left\n\n", r.compared, took.Round(time.Second), r.tolerated, len(r.found))
	bySubject := map[string]int{}
	for _, key := range slices.Sorted(maps.Keys(r.found)) {
		f := r.found[key]
		bySubject[f.subject]++
		fmt.Fprintf(&b, "%s: %s (%d times)\n    %s\n\n", f.subject, f.example, f.count, f.what)
	}
	file := filepath.Join(dir, "report.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return err
	}
	for _, subject := range slices.Sorted(maps.Keys(r.stages)) {
		fmt.Printf("%-60s %7d compared %5d kinds of difference\n", subject, r.stages[subject], bySubject[subject])
	}
	fmt.Printf("%s", strings.SplitAfterN(b.String(), "\n", 2)[0])
	if len(r.found) > 0 {
		return fmt.Errorf("%d kinds of difference: see %s", len(r.found), file)
	}
	for _, a := range r.accepted {
		if whole && !a.used {
			return fmt.Errorf("nothing needs the acceptance of %q %q any more", a.Subject, a.Difference)
		}
	}
	return nil
}
