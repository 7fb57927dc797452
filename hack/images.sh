#!/bin/sh
# Builds the small programs of the bundled images and packs the images, unless nothing they are made of has changed.
set -eu
cd "$(dirname "$0")/.."
bin=$1
traefik=
[ -e "$bin/traefik" ] && traefik=$bin/traefik # make ingress
stamp=$( { sha256sum hack/images.sh lab/images/pause/pause.c lab/demo/*.go lab/images/*.go "$bin/coredns" "$bin/metrics-server" $traefik; } | sha256sum | cut -d' ' -f1)
[ "$(cat "$bin/images/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
echo "images: pause, coredns, metrics-server, demo, toolbox${traefik:+, traefik}"
gcc -Os -static -o "$bin/pause" lab/images/pause/pause.c
strip "$bin/pause"
go build -ldflags '-s -w' -o "$bin/demo" ./lab/demo
rm -rf "$bin/toolbox"
mkdir -p "$bin/toolbox/bin" "$bin/toolbox/tmp" "$bin/toolbox/etc" "$bin/toolbox/root"
cp /bin/busybox "$bin/toolbox/bin/busybox"
for applet in $(/bin/busybox --list); do
	[ "$applet" = busybox ] || ln -s busybox "$bin/toolbox/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$bin/toolbox/etc/passwd"
echo 'root:x:0:' >"$bin/toolbox/etc/group"
"$bin/keelson" image bundle
echo "$stamp" >"$bin/images/.stamp"
