package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"
)

// settle is how long the output of a command may take to become what it should be: events and status follow what they tell of.
const settle = 60 * time.Second

// held holds what a kubectl command prints against what upstream's own cluster made the same kubectl print: held NAME KUBECTL-ARGS...
// Negated, the command has to fail. The archive of a script has a file a name, all that is chance in them replaced.
func (c Cluster) held(ts *testscript.TestScript, negate bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: held NAME KUBECTL-ARGS...")
	}
	archive := filepath.Join(c.Golden, strings.TrimPrefix(filepath.Base(ts.Getenv("WORK")), "script-")+".txtar")
	want := read(archive, args[0])
	got, last := "", ""
	look := func(ctx context.Context) error {
		output, err := kubectl(ctx, ts, args[1:]...).CombinedOutput()
		if (err != nil) != negate {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args[1:], " "), err, output)
		}
		last, got = got, withoutChance(string(output), ts.Getenv("NS"))
		if c.TakeGolden && (got == last || !reading[args[1]]) {
			return nil // twice the same
		}
		if diff := cmp.Diff(byText(want), byText(got)); diff != "" {
			return errors.New(diff)
		}
		return nil
	}
	var err error
	if reading[args[1]] {
		err = within(settle, look)
	} else {
		err = look(context.Background())
	}
	if err == nil && c.TakeGolden {
		err = write(archive, args[0], got)
	}
	if err != nil {
		ts.Fatalf("%s: upstream's (-), this cluster's (+): %v", args[0], err)
	}
}

// reading are the commands that may be given again.
var reading = map[string]bool{"get": true, "describe": true, "events": true, "logs": true, "api-resources": true}

func read(archive, name string) string {
	files, err := txtar.ParseFile(archive)
	if err != nil {
		return ""
	}
	for _, file := range files.Files {
		if file.Name == name {
			return string(file.Data)
		}
	}
	return ""
}

// write replaces a file of the archive or appends it.
func write(archive, name, text string) error {
	files, err := txtar.ParseFile(archive)
	if errors.Is(err, os.ErrNotExist) {
		files, err = &txtar.Archive{}, os.MkdirAll(filepath.Dir(archive), 0o755)
	}
	if err != nil {
		return err
	}
	for i := range files.Files {
		if files.Files[i].Name == name {
			files.Files[i].Data = []byte(text)
			return os.WriteFile(archive, txtar.Format(files), 0o644) //nolint:gosec // part of the sources
		}
	}
	files.Files = append(files.Files, txtar.File{Name: name, Data: []byte(text)})
	return os.WriteFile(archive, bytes.TrimPrefix(txtar.Format(files), []byte("\n")), 0o644) //nolint:gosec // part of the sources
}

// chance is what differs from one run to the next, in the order in which it is replaced.
var chance = []struct {
	pattern *regexp.Regexp
	by      string
}{
	// kubectl's, when a server's message is there before the stream that it is for
	{regexp.MustCompile(`(?m)^E\d{4} \S+ +\d+ websocket\.go:\d+\] Unknown stream id \d+, discarding message\n`), ""},
	{regexp.MustCompile(`\b(worker-\d|server-\d|node-1)\b`), "NODE"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\b(sha256:)?[0-9a-f]{64}\b`), "DIGEST"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[-+]\d\d:?\d\d| UTC|Z)?`), "TIME"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [-+]\d{4}`), "TIME"},
	{regexp.MustCompile(`(https://)?\b\d+\.\d+\.\d+\.\d+(:6443)?\b`), "ADDRESS"},
	{regexp.MustCompile(`-[bcdf-hj-np-tv-z2456789]{8,10}\b`), "-HASH"},
	{regexp.MustCompile(`(pod-template-hash=|hash: )"?[bcdf-hj-np-tv-z2456789]{8,10}"?`), "${1}HASH"},
	{regexp.MustCompile(`(-HASH|kube-api-access|once|now)-[bcdf-hj-np-tv-z2456789]{5}\b`), "$1-RANDOM"},
	{regexp.MustCompile(`-\d{8}\b`), "-MINUTE"},
	{regexp.MustCompile(`(resourceVersion|Resource Version)(: +"?|\\*": *\\*")\d+`), "${1}${2}VERSION"},
	{regexp.MustCompile(`\b(3[0-2]\d{3})\b`), "NODEPORT"},
	{regexp.MustCompile(`(Successfully pulled image "\S+") in .*`), "$1"},
	{regexp.MustCompile(`(cpu: +)(\d+)m\b`), "$1$2 m"}, // no age
	{regexp.MustCompile(`(?m)(^|[ (])(\d+[dhms]){1,2}( \(x\d+ over \w+\))?([ )]|$)`), "${1}AGE$4"},
	{regexp.MustCompile(`(?s)\n@@ .*`), ""}, // a difference of objects in the server's memory
	{regexp.MustCompile(`\d+(/\d+)?( nodes are available: | Insufficient| Preemption| node\(s\))`), "N$2"},
	{regexp.MustCompile(`(\S) {2,}`), "$1  "},
	{regexp.MustCompile(` +\n`), "\n"},
	{regexp.MustCompile(`-{3,}`), "---"},
}

// managed is the list of an object's managedFields, and manager one entry of it.
var (
	managed = regexp.MustCompile(`(?m)^  managedFields:\n(?:  - .*\n(?:    .*\n)*)+`)
	manager = regexp.MustCompile(`(?m)^  - .*\n(?:    .*\n)*`)
)

// byText sorts the entries of managedFields: they are listed by time, to the second, so that the speed of a cluster decides which comes first.
func byText(text string) string {
	return managed.ReplaceAllStringFunc(text, func(list string) string {
		entries := manager.FindAllString(list, -1)
		slices.Sort(entries)
		return "  managedFields:\n" + strings.Join(entries, "")
	})
}

func withoutChance(text, namespace string) string {
	text = strings.ReplaceAll(text, namespace, "NAMESPACE")
	for _, is := range chance {
		text = is.pattern.ReplaceAllString(text, is.by)
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n" // as an archive has it
	}
	return text
}
