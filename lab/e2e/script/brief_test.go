package script

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestGist(t *testing.T) {
	var log strings.Builder
	for at := range 500 {
		if at == 100 || at == 400 {
			fmt.Fprintf(&log, "FAIL: script.txt:%d: no match\n", at)
			continue
		}
		fmt.Fprintf(&log, "line %d\n", at)
	}
	got := strings.Split(gist(log.String()), "\n")
	if len(got) > 4*around+10 {
		t.Errorf("%d lines", len(got))
	}
	for _, want := range []string{"line 75", "FAIL: script.txt:100: no match", "line 124", "[…]", "FAIL: script.txt:400: no match"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, far := range []string{"line 74", "line 250"} {
		if slices.Contains(got, far) {
			t.Errorf("%q is far from a failure", far)
		}
	}
}
