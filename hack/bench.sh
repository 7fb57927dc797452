#!/bin/sh
# Measures the figures of docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
exec go run ./lab/bench "$@"
