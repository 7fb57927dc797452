#!/bin/sh
# Builds and vets every package, and checks what a compiler does not.
set -eu
cd "$(dirname "$0")/.."
echo "verify: build and vet"
go build ./...
go vet ./...
go vet -tags e2e,interop ./lab/...
echo "verify: layers"
go test ./hack/layers
echo "verify: formatting"
unformatted=$(gofmt -l apis apiserver cmd controllers hack internal kubelet-lite lab proxy-lite scheduler | grep -v zz_generated || true)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; exit 1; }
echo "verify: go.mod"
go mod tidy -diff >/dev/null || { echo "go.mod is not tidy: run go mod tidy" >&2; exit 1; }
echo "verify: generated code"
hack/generate.sh >/dev/null
git diff --exit-code --stat -- apis/generated || { echo "generated code was out of date: commit what make generate wrote" >&2; exit 1; }
