#!/bin/sh
# Builds the small programs of the bundled images and packs the images, unless nothing they are made of has changed.
set -eu
cd "$(dirname "$0")/.."
bin=$1
stamp=$( { sha256sum lab/images/pause/pause.c lab/demo/*.go lab/images/*.go "$bin/coredns"; } | sha256sum | cut -d' ' -f1)
[ "$(cat "$bin/images/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
echo "images: pause, coredns, demo"
gcc -Os -static -o "$bin/pause" lab/images/pause/pause.c
strip "$bin/pause"
go build -trimpath -ldflags '-s -w' -o "$bin/demo" ./lab/demo
"$bin/keelson" image bundle
echo "$stamp" >"$bin/images/.stamp"
