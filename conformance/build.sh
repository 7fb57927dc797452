#!/bin/sh
# Builds the suite, its runner and the harness, from the modules that go.mod pins, into bin/conformance.
set -eu
cd "$(dirname "$0")"
out=$(cd .. && pwd)/bin/conformance
mkdir -p "$out"
export CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp=$(cat go.mod go.sum build.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/.stamp" 2>/dev/null)" != "$stamp" ]; then
	echo "conformance: building e2e.test $version (some minutes when it is the first time)"
	# The suite compares versions: it has to know its own.
	minor=$(echo "$version" | cut -d. -f2)
	base=k8s.io/component-base/version
	link="-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor -X k8s.io/client-go/pkg/version.gitVersion=$version"
	go test -c -vet=off -ldflags "$link" -o "$out/e2e.test.new" k8s.io/kubernetes/test/e2e
	mv "$out/e2e.test.new" "$out/e2e.test" # one that runs keeps running
	echo "conformance: building ginkgo"
	rm -f "$out/ginkgo"
	go build -o "$out/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
	echo "conformance: building kubectl" # of the suite's version, and a file that tests can copy into pods
	rm -f "$out/kubectl"
	go build -ldflags "$link" -o "$out/kubectl" k8s.io/kubernetes/cmd/kubectl
	echo "$stamp" >"$out/.stamp"
fi
go build -o "$out/conformance.new" .
mv "$out/conformance.new" "$out/conformance" # one that runs keeps running
