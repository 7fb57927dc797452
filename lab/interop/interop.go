// Package interop proves that every part of a cluster can be exchanged for upstream's, and upstream's for ours: the same scripts run
// against clusters of one node whose parts are mixed. It holds tests only, behind the build tag interop: make interop runs them.
package interop
