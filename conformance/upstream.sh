#!/bin/sh
# Builds upstream's own binaries from the modules that go.mod pins, into bin/upstream: what Keelson's parts are measured beside and
# must be interchangeable with. Arguments: which of them (default: all).
set -eu
cd "$(dirname "$0")"
out=$(cd .. && pwd)/bin/upstream
mkdir -p "$out"
export CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp=$(cat go.mod go.sum upstream.sh ../go.sum | sha256sum | cut -d' ' -f1)
minor=$(echo "$version" | cut -d. -f2)
base=k8s.io/component-base/version
for name in ${*:-kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy etcd}; do
	[ "$(cat "$out/.$name.stamp" 2>/dev/null)" = "$stamp" ] && continue
	echo "upstream: building $name (some minutes when it is the first time)"
	if [ "$name" = etcd ]; then
		(cd .. && go build -ldflags '-s -w' -o "$out/etcd" go.etcd.io/etcd/server/v3)
	else
		go build -ldflags "-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor -X k8s.io/client-go/pkg/version.gitVersion=$version" \
			-o "$out/$name" "k8s.io/kubernetes/cmd/$name"
	fi
	echo "$stamp" >"$out/.$name.stamp"
done
