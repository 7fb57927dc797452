#!/bin/sh
# Builds the client that the end-to-end tests run beside the built-in one, into DIR: the oldest kubectl that is supported.
set -eu
module=$(cd "$(dirname "$0")/../conformance/kubectl" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
stamp=$(cat "$module"/* "$0" | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
cd "$module"
version=$(go list -m -f '{{.Version}}' k8s.io/kubectl)
echo "test: building kubectl $version"
minor=$(echo "$version" | cut -d. -f2)
base=k8s.io/component-base/version
go build -ldflags "-s -w -X $base.gitVersion=v1.${version#v0.} -X $base.gitMajor=1 -X $base.gitMinor=$minor" -o "$out/kubectl-1.$minor" .
echo "$stamp" >"$out/.stamp"
