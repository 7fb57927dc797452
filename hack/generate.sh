#!/bin/sh
# Generates apis/generated from the Go types of k8s.io/api: run by `make generate`.
#
# The generators write beside their *inputs* unless told otherwise, and an input in the module cache must never be written to: so
# openapi-gen gets an output folder of ours, and validation-gen gets packages of ours whose doc.go names the foreign types.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/boilerplate"

echo "building generators"
go build -o "$scratch/openapi-gen" k8s.io/kube-openapi/cmd/openapi-gen
go build -o "$scratch/validation-gen" k8s.io/code-generator/cmd/validation-gen

echo "generating apis/generated/openapi"
"$scratch/openapi-gen" \
	--output-dir apis/generated/openapi --output-pkg keelson.dev/apis/generated/openapi --output-file zz_generated.openapi.go \
	--go-header-file "$scratch/boilerplate" --report-filename "$scratch/violations" \
	$(cat hack/generate/openapi.packages)

# resource.k8s.io is the one group whose rules are declared for real; in the other groups they are still being tried out upstream,
# and ours stand with the kinds. The read-only packages are those whose types the rules pass through.
echo "generating apis/generated/validation"
readonly_flags=$(sed 's/^/--readonly-pkg /' hack/generate/validation.readonly)
"$scratch/validation-gen" \
	--output-file zz_generated.validations.go --go-header-file "$scratch/boilerplate" $readonly_flags \
	keelson.dev/apis/generated/validation/meta keelson.dev/apis/generated/validation/resource

gofmt -w apis/generated
