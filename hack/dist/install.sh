#!/bin/sh
# Puts keelson on PATH and its unit beside the others; the bundle stays in this folder. Once more with --remove takes both away.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
unit=/etc/systemd/system/keelson.service
if [ "${1:-}" = --remove ]; then
	[ ! -e "$unit" ] || systemctl disable --now keelson.service
	rm -f /usr/local/bin/keelson "$unit"
	exit
fi
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || echo "keelson needs nft: apt-get install nftables" >&2
ln -sf "$here/keelson" /usr/local/bin/keelson
[ ! -d /run/systemd/system ] || { install -m 644 "$here/keelson.service" "$unit" && systemctl daemon-reload; }
echo "keelson up                      a cluster on this machine, now"
echo "systemctl enable --now keelson  the same, and after every boot"
