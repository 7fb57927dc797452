// Package byhand runs docs/labs/by-hand.md, in which a learner starts every part of a cluster: what stands there must work as it stands.
package byhand
