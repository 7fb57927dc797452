#!/bin/bash
# The release as its users get it: a bare Debian 12 with systemd and cgroup v2 in an emulated machine (no KVM needed, no network), which
# is given the archive and no more. Each step has a deadline; what the steps print is in bin/vm/log, the machine's console in bin/vm/console.
set -euo pipefail
cd "$(dirname "$0")/../.."
archive=$1
vm=bin/vm

want=""
need() { dpkg -s "$1" >/dev/null 2>&1 || want="$want $1"; }
need qemu-system-x86
need mmdebstrap
need kmod
need busybox-static
if [ -n "$want" ]; then
	echo "vm: apt-get install$want"
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of packages
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $want >/dev/null
fi
hack/vm/image.sh $vm

work=$(mktemp -d /var/tmp/keelson-vm.XXXXXX)
machine=
cleanup() {
	[ -z "$machine" ] || kill "$machine" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
# Tests of what the lab's nodes do not have, since systemd is not in them.
go test -c -o "$work/" ./kubelet-lite/cgroups ./kubelet-lite/shutdown
tar -cf "$work/tests.tar" -C "$work" cgroups.test shutdown.test
mkfifo "$work/shell.in" "$work/shell.out"
exec {to}<>"$work/shell.in" {from}<>"$work/shell.out"
: >$vm/log

# The emulated machine counts the ticks of this one. Linux trusts no counter of an emulated one unless told so, and any other clock costs
# programs that look at it often, as Go's do, most of their time.
clock="clocksource=tsc tsc=reliable tsc_early_khz=$(awk '/MHz/ {printf "%d", $4 * 1000; exit}' /proc/cpuinfo)"
# Writes go to a temporary file that qemu removes.
TMPDIR=$work nice -n 10 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 5G -nodefaults -display none -nic none \
	-kernel $vm/vmlinuz -initrd $vm/initrd -append "console=ttyS0 quiet mitigations=off $clock" -snapshot \
	-drive file=$vm/debian.img,format=raw,if=virtio -drive file="$archive",format=raw,if=virtio,readonly=on \
	-drive file="$work/tests.tar",format=raw,if=virtio,readonly=on \
	-device virtio-rng-pci -serial file:$vm/console \
	-device virtio-serial -chardev pipe,id=shell,path="$work/shell" -device virtserialport,chardev=shell,name=shell &
machine=$!

fail() {
	echo "FAILED: $1 (after $((SECONDS - began)) s)" >&2
	tail -n 40 $vm/log $vm/console >&2
	exit 1
}

# await DEADLINE PATTERN: reads what the machine says until a line matches, which is left in $line.
await() {
	local end=$((SECONDS + $1)) part got
	line=
	while [ $SECONDS -lt $end ]; do
		kill -0 "$machine" 2>/dev/null || fail "$step: qemu has ended"
		IFS= read -r -t 5 -u "$from" part && got=0 || got=1
		line+=$part
		[ $got = 0 ] || continue
		echo "$line" >>$vm/log
		# shellcheck disable=SC2053 # a pattern
		[[ $line != $2 ]] || return 0
		line=
	done
	fail "$step: not within $1 s"
}

# begin STEP, passed: the frame of a step.
begin() { step=$1 began=$SECONDS && echo "== $1" >>$vm/log; }
passed() { printf 'passed: %-70s %5d s\n' "$step" $((SECONDS - began)); }

# on STEP DEADLINE SCRIPT: runs a bash script on the machine, which must succeed within so many seconds. Meanwhile its shell takes other lines
# from $work/shell.in, to look around.
on() {
	begin "$1"
	echo "{ bash -euo pipefail -c \"\$(echo $(base64 -w0 <<<"$3") | base64 -d)\" </dev/null; r=\$?; echo; echo \"@@\$r\"; } &" >&"$to"
	await "$2" '@@*'
	[ "$line" = @@0 ] || fail "$step: exit status ${line#@@}"
	passed
}

# What holds as long as the cluster lives. The credentials of systemd's own services are mounted at the first boot only.
answers='until keelson kubectl get --raw /api/v1/namespaces/demo/services/demo:http/proxy/; do sleep 5; done'
traces='{ ip -o link | cut -d: -f2 | sort; nft list tables; findmnt -rno TARGET | grep -v ^/run/credentials/ | sort; ls /var/lib/keelson/clusters 2>/dev/null || true
	find /sys/fs/cgroup -path "*keelson*" -not -path "*/system.slice/*"; ps -eo comm= | grep -E "keelson|containerd|runc" || true; }'

begin "boot"
await 900 '@@up *' && passed
on "systemd, cgroup v2, no network" 600 '
	systemctl is-system-running --wait || systemctl --failed
	[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] && [ "$(ip -o link | wc -l)" = 1 ]'
on "pods' groups by systemd and by files" 300 'tar -xf /dev/vdc -C /root && /root/cgroups.test -test.v && ! ls -d /sys/fs/cgroup/*keelson*'
on "install from the archive" 600 "tar -xzf /dev/vdb -C /opt && /opt/keelson/install.sh && command -v keelson && $traces >/root/before"
on "a missing package is named" 120 '
	mv /usr/sbin/nft /root/ && ! keelson up 2>/root/said; mv /root/nft /usr/sbin/; cat /root/said
	grep "apt-get install nftables" /root/said && [ ! -e /var/lib/keelson/clusters ]'
# An emulated machine is too slow for leases of seconds, over which a single server has nobody to contend with.
on "keelson up --workers 2 --demo" 2700 'keelson up --workers 2 --demo --timeout 40m --server-arg=--leader-elect=false'
on "the demo answers" 300 "$answers"
on "limits are the kernel's, also after systemd has reloaded" 300 '
	systemctl daemon-reload; sleep 5
	find /sys/fs/cgroup/keelson -path "*kubepods/burstable*" -name memory.max -exec cat {} + | sort | uniq -c | grep -w $((64<<20))'
on "a pod beyond its memory limit is killed" 900 '
	keelson kubectl run greedy --image=registry.keelson.dev/toolbox --restart=Never \
		--overrides="{\"spec\":{\"containers\":[{\"name\":\"greedy\",\"image\":\"registry.keelson.dev/toolbox:1\",\"command\":[\"tail\",\"/dev/zero\"],\"resources\":{\"limits\":{\"memory\":\"32Mi\"}}}]}}"
	reason() { keelson kubectl get pod greedy -o "jsonpath={.status.containerStatuses[0].state.terminated.reason}"; }
	until [ "$(reason)" = OOMKilled ]; do sleep 5; done
	keelson kubectl delete pod greedy'
on "freeze and thaw of a node" 600 '
	keelson node freeze worker-2; keelson node ls | grep paused; keelson node thaw worker-2
	keelson kubectl wait --for=condition=Ready node/worker-2 --timeout=8m'
on "a slow disk, and undo" 300 '
	limited() { find /sys/fs/cgroup -path "*worker-1*" -name io.max -exec cat {} + | grep wiops=20; }
	keelson fault slow-disk worker-1 --writes 20; limited
	keelson fault undo; ! limited'
on "node kill, and the demo heals" 1500 '
	keelson node kill worker-1
	keelson kubectl wait --for=condition=Ready=Unknown node/worker-1 --timeout=10m
	healed() { [ "$(keelson kubectl get pods -n demo --field-selector=status.phase=Running -o wide | grep -c "1/1.*worker-2")" = 2 ]; }
	until healed; do sleep 5; done'
on "the demo answers" 300 "$answers"
on "node start, and it is Ready" 900 'keelson node start worker-1 && keelson kubectl wait --for=condition=Ready node/worker-1 --timeout=14m'
on "the unit" 900 '
	systemctl enable --now keelson && systemctl is-active keelson
	keelson kubectl create configmap kept --from-literal=before=reboot; keelson kubectl get nodes -o wide | awk "{print \$1, \$6}" >/root/nodes'
# An agent on the machine itself, by its inhibitor, has a shutdown wait for its pods.
on "logind waits for an agent" 120 '
	systemd-run -q -E SHUTDOWN_TEST=/root/shutdown /root/shutdown.test -test.run TestLogind
	until systemd-inhibit --list | grep kubelet; do sleep 1; done
	busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec | grep 60000000'
begin "reboot"
echo "systemctl reboot" >&"$to"
await 1200 '@@up *' && passed
on "the agent's pods had ended" 60 'cat /root/shutdown; grep "one has ended" /root/shutdown'
on "the unit brings the cluster back" 2700 'while [ "$(systemctl is-active keelson)" = activating ]; do sleep 5; done; systemctl is-active keelson'
on "with its data, addresses and the demo" 600 "
	[ \"\$(keelson kubectl get configmap kept -o 'jsonpath={.data.before}')\" = reboot ]
	keelson kubectl get nodes -o wide | awk '{print \$1, \$6}' | diff /root/nodes -
	$answers"
on "doctor finds no problem" 300 'keelson doctor'
on "down leaves nothing" 600 "systemctl disable --now keelson && keelson down && $traces >/root/after && diff /root/before /root/after"
begin "power off"
echo "systemctl poweroff" >&"$to"
for _ in $(seq 300); do kill -0 "$machine" 2>/dev/null || break; sleep 1; done
kill -0 "$machine" 2>/dev/null && fail "$step: qemu runs on"
machine=
passed
