#!/bin/bash
# Makes the images that the conformance tests use, without any outside registry: Go programs from this module, the rest from Debian
# packages. README.md says where a stand-in differs from the original. Result: an OCI layout in bin/conformance/images.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd .. && pwd)
out=$root/bin/conformance
trees=$out/trees
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
upstream=$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)

stamp=$(cat go.mod images.sh sh.c socketproxy/main.go | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/images/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0

rm -rf "$trees" "$out/images"
mkdir -p "$trees" "$out/debs/partial" "$out/apt"
export CGO_ENABLED=0

# rootfs NAME PACKAGE...: unpacks the packages and all that they depend on into a tree; nothing is installed on this machine.
rootfs() {
	local name=$1 archives=$out/debs/$1
	shift
	mkdir -p "$archives/partial" "$trees/$name"
	: >"$out/apt/status"
	apt-get -qq -y --no-install-recommends --download-only \
		-o Dir::State::status="$out/apt/status" -o Dir::Cache::archives="$archives" -o Debug::NoLocking=1 \
		-o APT::Sandbox::User=root install "$@" >/dev/null
	for deb in "$archives"/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$trees/$name" --keep-directory-symlink --exclude ./usr/share/doc \
			--exclude ./usr/share/man --exclude ./usr/share/locale --exclude ./usr/share/info --exclude ./usr/share/perl
	done
	mkdir -p "$trees/$name"/{tmp,root,etc,var/run}
	chmod 1777 "$trees/$name/tmp"
	cat >"$trees/$name/etc/passwd" <<-EOT
		root:x:0:0:root:/root:/bin/sh
		www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
		nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
	EOT
	printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$trees/$name/etc/group"
	printf 'hosts: files dns\n' >"$trees/$name/etc/nsswitch.conf"
	ln -sf bash "$trees/$name/bin/sh" # ash and dash drop environment names such as data-1
}

# gobuild TREE/PATH PACKAGE
gobuild() {
	mkdir -p "$(dirname "$trees/$1")"
	go build -trimpath -ldflags '-s -w' -o "$trees/$1" "$2"
}

echo "conformance images: agnhost"
rootfs agnhost bash coreutils curl bind9-dnsutils net-tools netcat-openbsd iperf socat iproute2 util-linux mount hostname procps grep sed \
	findutils tar gzip ncurses-bin libc-bin ca-certificates
# A test of image volumes tells this image by its distribution.
rm "$trees/agnhost/etc/os-release"
printf 'NAME="Alpine Linux"\nID=alpine\nPRETTY_NAME="Alpine Linux (a stand-in, made of Debian packages)"\n' >"$trees/agnhost/etc/os-release"
gobuild agnhost/agnhost k8s.io/kubernetes/test/images/agnhost
ln -s nc.openbsd "$trees/agnhost/bin/nc" # what update-alternatives would do
ln -s agnhost "$trees/agnhost/agnhost-2"
cp "$root/bin/coredns" "$trees/agnhost/coredns"
mkdir -p "$trees/agnhost/uploads"
cp "$upstream"/test/images/agnhost/porter/localhost.{crt,key} "$trees/agnhost/"
echo 'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh' >>"$trees/agnhost/etc/passwd"
printf 'user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n' >>"$trees/agnhost/etc/group"

echo "conformance images: busybox"
rootfs busybox bash busybox hostname
for applet in $(/bin/busybox --list); do
	[ -e "$trees/busybox/bin/$applet" ] || ln -s busybox "$trees/busybox/bin/$applet"
done
rm "$trees/busybox/bin/sh"
gcc -Os -static -o "$trees/busybox/bin/sh" sh.c

echo "conformance images: nginx"
rootfs nginx bash coreutils nginx-light
mkdir -p "$trees/nginx"/var/{log,lib}/nginx
cat >"$trees/nginx/etc/nginx/nginx.conf" <<-EOT
	user root;
	worker_processes 1;
	pid /tmp/nginx.pid;
	error_log /dev/stderr;
	events { worker_connections 256; }
	http {
		include mime.types;
		access_log /dev/stdout;
		server { listen 80; root /usr/share/nginx/html; }
	}
EOT

echo "conformance images: kitten, nautilus, nonewprivs, nonroot, etcd, sample-apiserver, sample-device-plugin"
for pet in kitten nautilus; do
	mkdir -p "$trees/$pet"
	cp "$upstream/test/images/$pet/html/$pet.jpg" "$upstream/test/images/$pet/html/data.json" "$trees/$pet/"
done
cp -a "$trees/busybox" "$trees/nonewprivs"
mkdir -p "$trees/nonewprivs/usr/local/bin"
gobuild nonewprivs/usr/local/bin/nnp k8s.io/kubernetes/test/images/nonewprivs
chmod u+s,g+s "$trees/nonewprivs/usr/local/bin/nnp"
cp -a "$trees/busybox" "$trees/etcd"
(cd "$root" && go build -trimpath -ldflags '-s -w' -o "$trees/etcd/usr/local/bin/etcd" go.etcd.io/etcd/server/v3)
gobuild sample-apiserver/sample-apiserver k8s.io/sample-apiserver
cp -a "$trees/busybox" "$trees/hostpathplugin"
gobuild hostpathplugin/hostpathplugin ./socketproxy
cp -a "$trees/busybox" "$trees/sample-device-plugin"
gobuild sample-device-plugin/sampledeviceplugin k8s.io/kubernetes/test/images/sample-device-plugin
hostpath=$(grep -rhoE 'sig-storage/hostpathplugin:v[0-9.]+' "$upstream/test/e2e/testing-manifests/storage-csi" | sort -V | tail -n 1)

e2e=registry.k8s.io/e2e-test-images
path='"env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
agnhost="\"entrypoint\": [\"/agnhost\"], $path, \"workingDir\": \"/\""
cat >"$out/specs.json" <<-EOT
	[
	{"ref": "$e2e/agnhost:2.66.1", "files": {"/": "$trees/agnhost"}, "cmd": ["pause"], $agnhost},
	{"ref": "$e2e/agnhost:2.55", "files": {"/": "$trees/agnhost"}, "cmd": ["pause"], $agnhost},
	{"ref": "$e2e/glibc-dns-testing:2.1.1", "files": {"/": "$trees/agnhost"}, "cmd": ["bash"], $path},
	{"ref": "$e2e/kitten:1.8", "files": {"/": "$trees/agnhost", "/kitten.jpg": "$trees/kitten/kitten.jpg", "/data.json": "$trees/kitten/data.json"}, "cmd": ["test-webserver"], $agnhost},
	{"ref": "$e2e/nautilus:1.8", "files": {"/": "$trees/agnhost", "/nautilus.jpg": "$trees/nautilus/nautilus.jpg", "/data.json": "$trees/nautilus/data.json"}, "cmd": ["test-webserver"], $agnhost},
	{"ref": "$e2e/busybox:1.37.0-2", "files": {"/": "$trees/busybox"}, "cmd": ["sh"], $path},
	{"ref": "$e2e/nonroot:1.5", "files": {"/": "$trees/busybox"}, "cmd": ["sh"], "user": "1234", $path},
	{"ref": "$e2e/nonewprivs:1.4", "files": {"/": "$trees/nonewprivs"}, "cmd": ["nnp"], $path},
	{"ref": "$e2e/nginx:1.27.0-2", "files": {"/": "$trees/nginx"}, "cmd": ["nginx", "-g", "daemon off;"], "ports": ["80/tcp"], $path},
	{"ref": "$e2e/nginx:1.28.0-2", "files": {"/": "$trees/nginx"}, "cmd": ["nginx", "-g", "daemon off;"], "ports": ["80/tcp"], "workingDir": "/usr", $path},
	{"ref": "$e2e/sample-apiserver:1.29.2", "files": {"/": "$trees/sample-apiserver"}, "entrypoint": ["/sample-apiserver"], $path},
	{"ref": "$e2e/sample-device-plugin:1.8.0", "files": {"/": "$trees/sample-device-plugin"}, "entrypoint": ["/sampledeviceplugin", "-alsologtostderr"], $path},
	{"ref": "registry.k8s.io/$hostpath", "files": {"/": "$trees/hostpathplugin"}, "entrypoint": ["/hostpathplugin"], $path},
	{"ref": "registry.k8s.io/etcd:3.7.0-0", "files": {"/": "$trees/etcd"}, "cmd": ["etcd"], $path}
	]
EOT
"$root/bin/keelson" image pack --layout "$out/images" "$out/specs.json"
rm -rf "$trees" "$out/debs" "$out/apt"
echo "$stamp" >"$out/images/.stamp"
