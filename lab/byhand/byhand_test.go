//go:build e2e

package byhand

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// script runs all blocks in one shell, and the last one, the way back, also when another has failed.
const script = `set -euo pipefail
leave() {
%s
}
trap 'tail -n 15 $LAB/log/*; set +e; leave; exit 1' EXIT
%s
trap - EXIT
leave
`

// block is a fenced block of shell commands in Markdown.
var block = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

func TestByHand(t *testing.T) {
	text, err := os.ReadFile("../../docs/labs/by-hand.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, match := range block.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, match[1])
	}
	if len(blocks) < 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	last := len(blocks) - 1
	dir := t.TempDir()
	path, lab := filepath.Join(dir, "by-hand.sh"), filepath.Join(dir, "lab")
	if err := os.WriteFile(path, fmt.Appendf(nil, script, blocks[last], strings.Join(blocks[:last], "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("bash", path)
	command.Dir, command.Env = "../..", append(os.Environ(), "LAB="+lab)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		t.Error(err)
	}
	for _, left := range []string{lab, "/run/by-hand", "/run/netns/server", "/run/netns/node-1", "/run/netns/node-2", "/sys/class/net/byhand"} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s is left", left)
		}
	}
}
