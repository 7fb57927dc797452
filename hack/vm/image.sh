#!/bin/sh
# Makes a bare Debian 12 into DIR: debian.img (ext4, 8 GiB, sparse), vmlinuz and initrd. A shell listens on a virtio port: no network is
# needed to drive it. Everything comes from Debian's packages; a stamp over this file makes a second call return at once.
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
stamp=$(sha256sum "$0" | cut -d' ' -f1)
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
work=$(mktemp -d /var/tmp/keelson-vm.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

echo "vm: Debian 12 with systemd, nftables and a kernel"
mmdebstrap --quiet --variant=minbase --include=systemd-sysv,dbus,udev,kmod,procps,nftables,iproute2 bookworm "$root"
# The kernel is unpacked, not installed: qemu loads it, and to make Debian's own initrd takes longer than all the rest.
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2}')
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" && dpkg-deb -x "$kernel"_*.deb kernel)
version=${kernel#linux-image-}
mkdir -p "$root/usr/lib/modules"
mv "$work/kernel/lib/modules/$version" "$root/usr/lib/modules/"
depmod -b "$root" "$version"
mv "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz"

# An initrd that does no more than find the disk.
mkdir -p "$work/initrd/bin"
cp /bin/busybox "$work/initrd/bin"
{
	echo '#!/bin/busybox sh'
	echo '/bin/busybox mkdir -p /proc /dev /root; /bin/busybox mount -t devtmpfs dev /dev'
	modprobe -d "$root" -S "$version" --show-depends -a virtio_pci virtio_blk | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r module; do
		cp "$module" "$work/initrd/"
		echo "/bin/busybox insmod /$(basename "$module")"
	done
	echo 'while ! /bin/busybox test -b /dev/vda; do /bin/busybox sleep 0.1; done'
	echo '/bin/busybox mount -t ext4 /dev/vda /root && /bin/busybox umount /dev && exec /bin/busybox switch_root /root /sbin/init'
} >"$work/initrd/init"
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$out/initrd")

echo vm >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf" # there is no network
cat >"$root/etc/systemd/system/shell.service" <<'UNIT'
[Unit]
Description=Runs what comes in on a virtio port, line by line
Requires=dev-virtio\x2dports-shell.device
After=dev-virtio\x2dports-shell.device
[Service]
Environment=HOME=/root
ExecStart=/bin/bash -c 'exec 0<>/dev/virtio-ports/shell 1>&0 2>&1; echo "@@up $(cat /proc/sys/kernel/random/boot_id)"; while read -r line; do eval "$line"; done'
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../shell.service "$root/etc/systemd/system/multi-user.target.wants/"
rm -f "$out/debian.img"
mke2fs -q -t ext4 -d "$root" "$out/debian.img" 8G
echo "$stamp" >"$out/.stamp"
