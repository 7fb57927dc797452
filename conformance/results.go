package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// status is how a test ended.
type status int

const (
	skipped status = iota
	passed
	failed
)

// result is one test's end.
type result struct {
	name    string
	status  status
	seconds float64
	message string // first line of the failure
}

type junitFile struct {
	Suites []struct {
		Cases []struct {
			Name    string      `xml:"name,attr"`
			Status  string      `xml:"status,attr"`
			Time    float64     `xml:"time,attr"`
			Failure *junitFault `xml:"failure"`
			Error   *junitFault `xml:"error"`
			Skipped *struct{}   `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type junitFault struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// readJUnit reads the tests of a report; hooks of the suite are left out unless they failed.
func readJUnit(path string) ([]result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var file junitFile
	if err := xml.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	var results []result
	for _, suite := range file.Suites {
		for _, c := range suite.Cases {
			name, isTest := strings.CutPrefix(c.Name, "[It] ")
			fault := cmp.Or(c.Failure, c.Error)
			r := result{name: name, status: passed, seconds: c.Time}
			switch {
			case fault != nil:
				r.status = failed
				r.message = firstLine(cmp.Or(fault.Message, fault.Text))
			case c.Skipped != nil || c.Status == "skipped":
				r.status = skipped
			}
			if isTest || r.status == failed {
				results = append(results, r)
			}
		}
	}
	slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.name, b.name) })
	return results, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return line
}

var sigPattern = regexp.MustCompile(`\[sig-([a-z-]+)\]`)

// sigOf is the special interest group that owns a test.
func sigOf(name string) string {
	if match := sigPattern.FindStringSubmatch(name); match != nil {
		return match[1]
	}
	return "other"
}

// ran are the results of tests that were not skipped.
func ran(results []result) []result {
	return slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.status == skipped })
}

func named(results []result, want status) []string {
	var names []string
	for _, r := range results {
		if r.status == want {
			names = append(names, r.name)
		}
	}
	return names
}

// scoreboard is the one page about a run: passed of total per SIG, then what failed and why.
func scoreboard(title string, results []result) string {
	type score struct{ passed, total int }
	scores := map[string]*score{}
	all := &score{}
	var failures []result
	for _, r := range ran(results) {
		sig := sigOf(r.name)
		if scores[sig] == nil {
			scores[sig] = &score{}
		}
		for _, s := range []*score{scores[sig], all} {
			s.total++
			if r.status == passed {
				s.passed++
			}
		}
		if r.status == failed {
			failures = append(failures, r)
		}
	}
	var page strings.Builder
	fmt.Fprintf(&page, "# %s\n\n| SIG | passed | of |\n| --- | --- | --- |\n", title)
	sigs := make([]string, 0, len(scores))
	for sig := range scores {
		sigs = append(sigs, sig)
	}
	slices.Sort(sigs)
	for _, sig := range sigs {
		fmt.Fprintf(&page, "| %s | %d | %d |\n", sig, scores[sig].passed, scores[sig].total)
	}
	fmt.Fprintf(&page, "| **all** | **%d** | **%d** |\n", all.passed, all.total)
	if len(failures) > 0 {
		page.WriteString("\n## Failed\n\n")
	}
	for _, f := range failures {
		fmt.Fprintf(&page, "- %s\n  %s\n", f.name, f.message)
	}
	return page.String()
}
