#!/bin/bash
# Takes Debian's own containerd out of its package, into bin/debian, and installs crun: a second container runtime, an older one than
# ours, for `make interop FOCUS=DebianRuntime`. The package is not installed, since that would start it. It wants a plugin for the
# loopback interface, which newer ones need no more, beside ours.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/bin/debian
[ -x "$out/containerd" ] && command -v crun >/dev/null && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
if ! command -v crun >/dev/null; then
	echo "runtime: apt-get install crun"
	apt-get install -y -qq --no-install-recommends crun >/dev/null
fi
apt-get download -qq containerd containernetworking-plugins 2>/dev/null
for package in *.deb; do
	dpkg -x "$package" .
done
mkdir -p "$out/cni"
cp "$out"/../cni/* usr/lib/cni/loopback "$out/cni"
cp usr/bin/containerd-shim-runc-v2 usr/bin/containerd "$out"
