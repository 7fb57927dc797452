#!/bin/sh
# Installs from apt what building and running need and this machine lacks, and says so.
set -eu
want=""
need() { dpkg -s "$1" >/dev/null 2>&1 || want="$want $1"; }
need gcc
need libc6-dev
need libseccomp-dev
need pkg-config
need nftables
need busybox-static
need iproute2
[ -z "$want" ] && exit 0
command -v apt-get >/dev/null || { echo "please install:$want" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "please install (as root): apt-get install$want" >&2; exit 1; }
echo "deps: apt-get install$want"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
apt-get install -y -qq --no-install-recommends $want >/dev/null
