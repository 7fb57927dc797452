#!/bin/sh
# Builds the clients that the end-to-end tests run beside the built-in one, into DIR: the oldest kubectl that is supported, and Helm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
module=$here/../conformance/kubectl
mkdir -p "$1"
out=$(cd "$1" && pwd)
stamp=$(cat "$module"/* "$here"/helm/* "$here/e2e.sh" | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
cd "$module"
version=$(go list -m -f '{{.Version}}' k8s.io/kubectl)
echo "test: building kubectl $version"
minor=$(echo "$version" | cut -d. -f2)
base=k8s.io/component-base/version
go build -ldflags "-s -w -X $base.gitVersion=v1.${version#v0.} -X $base.gitMajor=1 -X $base.gitMinor=$minor" -o "$out/kubectl-1.$minor" .
cd "$here/helm"
echo "test: building helm $(go list -m -f '{{.Version}}' helm.sh/helm/v3)"
go build -ldflags '-s -w' -o "$out/helm" helm.sh/helm/v3/cmd/helm
echo "$stamp" >"$out/.stamp"
