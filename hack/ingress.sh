#!/bin/sh
# Builds what the addon "ingress" needs into DIR: Traefik, its image and the types of the Gateway API, all from pinned Go modules. It is apart
# from the bundle because Traefik is as large as all the rest.
set -eu
cd "$(dirname "$0")/bundle/traefik"
out=$(cd "../../../$1" && pwd)
stamp=$(cat go.mod go.sum ext/* dns/* ../../ingress.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/.ingress" 2>/dev/null)" != "$stamp" ]; then
	echo "ingress: traefik"
	# Without lego's two hundred clients of DNS providers: a copy of the sources, in which our package dns takes the place of lego's. The
	# index of the module cache knows nothing of an overlay.
	source=$(mktemp -d)
	trap 'rm -rf "$source"' EXIT
	cp -r . "$source"
	cd "$source"
	providers=providers/dns/zz_gen_dns_providers.go
	printf '{"Replace": {"%s/%s": "%s/dns/dns.go"}}' "$(go list -m -f '{{.Dir}}' github.com/go-acme/lego/v5)" $providers "$PWD" >overlay.json
	GODEBUG=goindex=0 go mod vendor -overlay overlay.json
	cp dns/dns.go vendor/github.com/go-acme/lego/v5/$providers
	version=$(go list -m -f '{{.Version}}' github.com/traefik/traefik/v3)
	go build -mod=vendor -o "$out/traefik" -ldflags "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=${version#v}" \
		github.com/traefik/traefik/v3/cmd/traefik
	cd - >/dev/null
	types=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard
	for file in "$types"/*.yaml; do
		echo ---
		cat "$file"
	done >"$out/gateway-api.yaml"
	echo "$stamp" >"$out/.ingress"
fi
cd ../../..
exec hack/images.sh "$1"
