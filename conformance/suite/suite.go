//go:build tools

// Package suite keeps what the harness builds in go.mod: upstream's e2e suite and the programs of its images.
package suite

import (
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/sample-apiserver"
)
