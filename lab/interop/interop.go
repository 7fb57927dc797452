// Package interop mixes clusters of one node from our parts and upstream's. Its tests, behind the build tag interop (make interop runs
// them), prove that every part can be exchanged for upstream's, and upstream's for ours: the same scripts run against all mixes. The
// benchmark of node agents runs on such clusters too.
package interop
