package images

import (
	"path"
	"slices"
)

// withParents returns every path of the tree and every folder above one, sorted, so that a folder precedes what it holds.
func withParents(tree map[string]string) []string {
	all := map[string]bool{}
	for target := range tree {
		for at := target; at != "." && at != "/" && at != ""; at = path.Dir(at) {
			all[at] = true
		}
	}
	sorted := make([]string, 0, len(all))
	for target := range all {
		sorted = append(sorted, target)
	}
	slices.Sort(sorted)
	return sorted
}

// folderMode lets everybody write to tmp, as everywhere.
func folderMode(target string) int64 {
	if path.Base(target) == "tmp" {
		return 0o1777
	}
	return 0o755
}
