#!/bin/sh
# Builds the commit OLD (default: 20 commits back) in a folder of its own, and lets a cluster of that build be upgraded to bin/.
set -eu
cd "$(dirname "$0")/.."
old=$(git rev-parse "${OLD:-HEAD~20}")
dir=$(mktemp -d /var/tmp/keelson-old-XXXXXX)
trap 'rm -rf "$dir"' EXIT
git archive "$old" | tar -x -C "$dir"
mkdir "$dir/bin"
for part in bin/* bin/.stamp; do # what has not changed since is not built again
	case $part in bin/upstream | bin/conformance | bin/tools | bin/e2e) ;; *) cp -r "$part" "$dir/bin/" ;; esac
done
echo "upgrade: building $(git log -1 --format='%h %s' "$old")"
make -s -C "$dir" images
go test -count=1 -v -timeout 30m -tags e2e ./lab/e2e -run 'TestUpgrade$' -args -cluster upgrade -upgrade.from "$dir/bin"
