#!/bin/sh
# Prints the resident memory of each process of a three-node cluster's control plane and agents after the cluster has rested.
#
#	hack/bench-memory.sh [seconds of rest, 120]
#
# Text that the processes of a machine map from the same file counts for each of them; "anonymous" is what each has for itself.
set -eu
cd "$(dirname "$0")/.."
name=bench-memory
keelson="bin/keelson --name $name"

trap '$keelson down >/dev/null' EXIT
trap 'exit 1' INT TERM
$keelson down >/dev/null 2>&1 || : # of an earlier run
$keelson up --workers 2 --kubeconfig ''
sleep "${1:-120}"

printf '%-10s %-10s %12s %16s %12s\n' node process 'RSS (MB)' 'anonymous (MB)' 'file (MB)'
for node in server-1 worker-1 worker-2; do
	for pid in $(grep -ls "/keelson/$name/$node" /proc/[0-9]*/cgroup | cut -d/ -f3); do
		role=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n '1{/\/keelson$/!q};2p')
		case $role in server | agent) ;; *) continue ;; esac
		awk -v node="$node" -v role="$role" '
			/^VmRSS:/ { rss = $2 } /^RssAnon:/ { anon = $2 } /^RssFile:/ { file = $2 }
			END { printf "%-10s %-10s %12d %16d %12d\n", node, role, rss / 1024, anon / 1024, file / 1024 }' "/proc/$pid/status"
	done
done
