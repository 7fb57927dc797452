#!/bin/sh
# Generates apis/generated from the Go types of k8s.io/api: run by `make generate`.
#
# The generators write beside their *inputs* unless told otherwise, and an input in the module cache must never be written to: so
# openapi-gen gets an output folder of ours, and validation-gen gets packages of ours whose doc.go names the foreign types.
set -eu
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/boilerplate"

echo "building generators"
go build -o "$scratch/openapi-gen" k8s.io/kube-openapi/cmd/openapi-gen

echo "generating apis/generated/openapi"
"$scratch/openapi-gen" \
	--output-dir apis/generated/openapi --output-pkg keelson.dev/apis/generated/openapi --output-file zz_generated.openapi.go \
	--go-header-file "$scratch/boilerplate" --report-filename "$scratch/violations" \
	$(cat hack/generate/openapi.packages)

gofmt -w apis/generated
