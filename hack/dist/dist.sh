#!/bin/sh
# Packs what `keelson up` needs into dist/keelson-VERSION-linux-ARCH.tar.gz, with a checksum and a software bill of materials beside it.
set -eu
cd "$(dirname "$0")/../.."
version=$1
name=keelson-$version-linux-$(go env GOARCH)
programs="keelson keelson-node containerd containerd-shim-runc-v2 ctr runc cni/host-local cni/portmap cni/ptp"
stage=dist/stage/keelson
rm -rf dist
mkdir -p "$stage"
go run ./hack/dist keelson "$version" bin $programs coredns metrics-server demo pause toolbox/bin/busybox >"dist/$name.cdx.json"
(cd bin && cp --parents -rl $programs images "../$stage")
cp hack/dist/install.sh hack/dist/keelson.service "$stage"
cp "dist/$name.cdx.json" "$stage/sbom.cdx.json"
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" --exclude=.stamp -C dist/stage keelson |
	gzip -n >"dist/$name.tar.gz"
rm -r dist/stage
(cd dist && sha256sum "$name".* >SHA256SUMS && ls -lh "$name".* | awk '{print "dist: " $5 "\tdist/" $9}')
