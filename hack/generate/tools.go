//go:build tools

// Package generate keeps the generators that hack/generate.sh builds in go.mod.
package generate

import (
	_ "k8s.io/code-generator/cmd/validation-gen"
	_ "k8s.io/kube-openapi/cmd/openapi-gen"
)
