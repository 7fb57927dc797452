#!/bin/sh
# Lints the product. The linter is built from its module, pinned in hack/lint, and kept in bin/tools.
set -eu
cd "$(dirname "$0")/.."
stamp=$(sha256sum hack/lint/go.sum | cut -d' ' -f1)
if [ "$(cat bin/tools/.stamp 2>/dev/null)" != "$stamp" ]; then
	echo "lint: building golangci-lint"
	(cd hack/lint && go build -ldflags '-s -w' -o ../../bin/tools/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
	echo "$stamp" >bin/tools/.stamp
fi
echo "lint: golangci-lint"
exec bin/tools/golangci-lint run --concurrency 2 ./...
