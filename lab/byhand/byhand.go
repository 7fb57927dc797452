// Package byhand runs docs/labs/by-hand.md, in which a learner starts every part of a cluster: what stands there must work as it stands.
package byhand

import (
	"regexp"
)

var block = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// Blocks are the shell commands of a text in Markdown, one string for each fenced block of language sh.
func Blocks(markdown string) []string {
	var blocks []string
	for _, match := range block.FindAllStringSubmatch(markdown, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}
