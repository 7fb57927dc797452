package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// certify runs all conformance tests in one go, one at a time and none skipped, and lays the results out as the CNCF's programme
// asks: PRODUCT.yaml, README.md, e2e.log and junit_01.xml in one folder.
func (h *harness) certify(ctx context.Context) error {
	all, err := h.names(ctx, conformanceFocus, "")
	if err != nil {
		return err
	}
	results, err := h.execute(ctx, pass{name: "keelson", focus: conformanceFocus, procs: 1, expected: len(all)})
	if err != nil {
		return err
	}
	files := map[string]string{
		"PRODUCT.yaml": "vendor: Keelson\nname: Keelson\nversion: v1.37\ntype: distribution\n" +
			"description: Kubernetes, rebuilt small\nwebsite_url: https://keelson.dev\nrepo_url: https://keelson.dev\n" +
			"documentation_url: https://keelson.dev\n",
		"README.md": "# Reproduce\n\n```\nmake conformance-certify\n```\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(h.out, "keelson", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if missing := len(all) - len(ran(results)); missing > 0 {
		return fmt.Errorf("%d of %d tests did not run", missing, len(all))
	}
	return h.report("Certification run", results)
}

// why runs one test and puts beside its output what every component of the cluster said meanwhile.
func (h *harness) why(ctx context.Context) error {
	if h.test == "" {
		return fmt.Errorf("say which test: -test 'part of its name'")
	}
	all, err := h.names(ctx, conformanceFocus, "")
	if err != nil {
		return err
	}
	var matching []string
	for _, name := range all {
		if strings.Contains(name, h.test) {
			matching = append(matching, name)
		}
	}
	if len(matching) == 0 {
		return fmt.Errorf("no conformance test has %q in its name", h.test)
	}
	began := time.Now().UTC()
	results, err := h.execute(ctx, pass{name: "why", focus: exactly(matching), procs: 1, expected: len(matching)})
	if err != nil {
		return err
	}
	if err := h.collectLogs(began); err != nil {
		return err
	}
	return h.report("Why", results)
}

// collectLogs copies the lines that the cluster's components wrote since then.
func (h *harness) collectLogs(since time.Time) error {
	files, err := filepath.Glob(filepath.Join(h.stateDir(), "nodes", "*", "state", "var", "log", "*.log"))
	if err != nil {
		return err
	}
	for _, file := range files {
		node := strings.Split(strings.TrimPrefix(file, h.stateDir()+"/nodes/"), "/")[0]
		if err := copySince(file, filepath.Join(h.out, "why", node+"-"+filepath.Base(file)), since); err != nil {
			return err
		}
	}
	return nil
}

// copySince copies the lines from the first one whose klog time (I0102 15:04:05.000000) is not before since.
func copySince(from, to string, since time.Time) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	stamp := since.Format("0102 15:04:05.000000")
	copying := false
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Text()
		if !copying && len(line) > 21 && strings.ContainsRune("IWEF", rune(line[0])) && line[1:21] >= stamp {
			copying = true
		}
		if copying {
			fmt.Fprintln(out, line)
		}
	}
	return scanner.Err()
}
