#!/bin/sh
# Looks for known vulnerabilities in what we build and what nodes run: govulncheck, pinned in hack/vuln, over every module. It needs the Go
# vulnerability database (GOVULNDB names another one, such as a mirror or file:///a/copy); where that cannot be reached nothing has been
# checked, which is said and is exit status 2. Exit status 1: something was found.
set -eu
cd "$(dirname "$0")/.."
tool=$PWD/bin/tools/govulncheck
stamp=$(sha256sum hack/vuln/go.sum | cut -d' ' -f1)
if [ "$(cat "$tool.stamp" 2>/dev/null)" != "$stamp" ]; then
	echo "vuln: building govulncheck"
	(cd hack/vuln && go build -ldflags '-s -w' -o "$tool" golang.org/x/vuln/cmd/govulncheck)
	echo "$stamp" >"$tool.stamp"
fi
output=$(mktemp)
trap 'rm -f "$output"' EXIT
found=0
# Module and what of it is built: the product, the runtime of a node, DNS, metrics, the ingress add-on, BuildKit.
for module in .:./cmd/... hack/bundle/runtime:tool hack/bundle/coredns:. hack/bundle/metricsserver:tool hack/bundle/traefik:tool hack/bundle/buildkit:tool; do
	folder=${module%%:*}
	packages=${module#*:}
	[ "$packages" = tool ] && packages=$(go -C "$folder" list tool)
	[ "$folder" = hack/bundle/runtime ] && packages="$packages ."
	echo "vuln: $folder"
	status=0
	# shellcheck disable=SC2086 # packages are several words
	"$tool" -C "$folder" ${GOVULNDB:+-db "$GOVULNDB"} $packages >"$output" 2>&1 || status=$?
	case $status in
	0) ;;
	3)
		cat "$output"
		found=1
		;;
	*)
		cat "$output" >&2
		echo "vuln: NOT CHECKED: $folder. Without the vulnerability database (GOVULNDB) nothing can be said about it." >&2
		exit 2
		;;
	esac
done
[ "$found" = 0 ] && echo "vuln: nothing known"
exit "$found"
