#!/bin/sh
# Builds what `keelson image build` needs into DIR: BuildKit's daemon and client, from their pinned module. It is apart from the bundle because
# a cluster runs without it.
set -eu
cd "$(dirname "$0")/bundle/buildkit"
out=$(cd "../../../$1" && pwd)
stamp=$(cat go.mod go.sum ../../buildkit.sh | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/.buildkit" 2>/dev/null)" = "$stamp" ] && exit 0
module=github.com/moby/buildkit
for program in buildkitd buildctl; do
	echo "buildkit: $program"
	go build -ldflags "-s -w -X $module/version.Version=$(go list -m -f '{{.Version}}' $module)" -o "$out/$program" $module/cmd/$program
done
echo "$stamp" >"$out/.buildkit"
