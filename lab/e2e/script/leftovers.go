package script

// Leftovers is a shell script that lists, in a node, all that pods have there: containers, their processes and snapshots, control groups,
// folders and logs, mounts, network namespaces, network devices and addresses. A pod that has gone leaves none of it behind. What containerd
// was at when it was killed it keeps for a day, by a lease: those are ended first. (A shim whose client is gone at the wrong moment may stay,
// without a task: https://github.com/containerd/containerd/issues/11392.)
const Leftovers = `ctr() { /opt/keelson/ctr --address /run/containerd/containerd.sock --namespace k8s.io "$@"; }
	ctr leases list | awk '/containerd.io\/gc.expire/ {print $1}' | while read lease; do ctr leases delete --sync $lease >/dev/null 2>&1; done
	ctr containers list -q | sed 's/^/container /'
	ctr tasks list -q | sed 's/^/task /'
	ctr snapshots list | awk '$NF == "Active" {print "snapshot", $1}'
	find /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods -type d -name '*pod?*-*' 2>/dev/null | sort
	find /var/lib/kubelet/pods /var/log/pods /var/log/containers -mindepth 1 -maxdepth 1 | sort
	awk '$2 ~ "^/(var/lib/kubelet/|run/containerd/|run/netns/|var/run/netns/)" {print "mount", $2}' /proc/self/mounts | sort
	ip -o link | grep -o 'veth[^@:]*' | sort
	find /var/lib/cni -type f -name '*.*.*.*' | sort
	exit 0`
