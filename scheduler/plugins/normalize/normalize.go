// Package normalize brings raw scores of a plugin into the framework's range.
package normalize

import fwk "k8s.io/kube-scheduler/framework"

// Linear scales scores so that the highest becomes fwk.MaxScore; with reverse, 0 becomes the best.
func Linear(reverse bool, scores fwk.NodeScoreList) {
	var highest int64
	for _, s := range scores {
		highest = max(highest, s.Score)
	}
	for i := range scores {
		switch {
		case highest == 0 && reverse:
			scores[i].Score = fwk.MaxScore
		case highest == 0:
			scores[i].Score = 0
		case reverse:
			scores[i].Score = fwk.MaxScore - fwk.MaxScore*scores[i].Score/highest
		default:
			scores[i].Score = fwk.MaxScore * scores[i].Score / highest
		}
	}
}
