package script

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// around is how many lines before and after a failure its report keeps.
const around = 25

// brief is a test that reports of a failed script what stands around its failures, and not all that the script printed before.
type brief struct{ *testing.T }

func (b brief) Run(name string, test func(testscript.T)) {
	b.T.Run(name, func(t *testing.T) { test(brief{t}) })
}

func (b brief) Verbose() bool { return testing.Verbose() }

func (b brief) Log(args ...any) {
	b.Helper()
	text := fmt.Sprint(args...)
	if !testing.Verbose() {
		text = gist(text)
	}
	b.T.Log(text)
}

// gist is the lines around each failure of a script's log.
func gist(log string) string {
	lines := strings.Split(log, "\n")
	keep := make([]bool, len(lines))
	for at, line := range lines {
		if !strings.HasPrefix(line, "FAIL: ") {
			continue
		}
		for near := max(0, at-around); near < min(len(lines), at+around); near++ {
			keep[near] = true
		}
	}
	var kept []string
	for at, line := range lines {
		switch {
		case keep[at]:
			kept = append(kept, line)
		case at == 0 || keep[at-1]:
			kept = append(kept, "[…]")
		}
	}
	return strings.Join(kept, "\n")
}
