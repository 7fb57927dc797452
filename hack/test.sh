#!/bin/bash
# Runs the unit tests, and then, unless told "unit", the end-to-end tests on a cluster of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "test: unit tests"
go test -p 2 ./... 2>&1 | { grep -v 'no test files' || true; }
go -C hack/bundle/runtime test ./...
[ "${1:-}" = unit ] && exit 0
echo "test: end to end"
hack/e2e.sh bin/e2e
go test -count=1 -timeout 60m -tags e2e ./lab/e2e/...
