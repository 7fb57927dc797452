#!/bin/sh
# Builds what a node runs beside Keelson itself, from pinned Go modules, into DIR (default bin): containerd, its shim, ctr,
# runc, the CNI plugins, CoreDNS and metrics-server. A stamp over the pins makes a second call return at once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../bin}
mkdir -p "$out/cni"
out=$(cd "$out" && pwd)
stamp=$(cd "$here" && cat coredns/go.* coredns/main.go metricsserver/go.* runtime/go.* runtime/*.go build.sh | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0

step() { echo "  building $1" >&2; }
# build NAME PACKAGE: one static binary without cgo, from the module of the current folder.
build() {
	step "$1"
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w ${3:-}" ${4:+-tags "$4"} -o "$out/$1" "$2"
}

cd "$here/runtime"
minimal=no_btrfs,no_devmapper,no_zfs,no_aufs,no_blockfile,no_erofs,no_tracing
build containerd . \
	"-X github.com/containerd/containerd/v2/version.Version=$(go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)" $minimal
build containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
build ctr github.com/containerd/containerd/v2/cmd/ctr "" $minimal
for plugin in main/ptp ipam/host-local meta/portmap; do
	build "cni/${plugin#*/}" "github.com/containernetworking/plugins/plugins/$plugin"
done
step runc
CGO_ENABLED=1 go build -trimpath -tags "seccomp netgo osusergo" \
	-ldflags "-s -w -extldflags -static -X main.version=$(go list -m -f '{{.Version}}' github.com/opencontainers/runc | tr -d v)" \
	-o "$out/runc" github.com/opencontainers/runc
cd "$here/coredns"
build coredns .
cd "$here/metricsserver"
build metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server
echo "$stamp" >"$out/.stamp"
