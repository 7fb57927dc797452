// Package proxier keeps the kernel's service rules equal to what the API server says: it watches Services, EndpointSlices and
// its own Node, turns them into rules (package rules) and writes what changed (package nftables).
package proxier

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

// Config says what a node's proxy does.
type Config struct {
	// RESTConfig reaches the API server; its user needs the rights of system:node-proxier.
	RESTConfig *rest.Config
	// NodeName is the Node whose addresses and topology count as local.
	NodeName string
	// ClusterCIDR holds the pod CIDRs of the whole cluster, separated by commas. Service traffic from other sources is
	// masqueraded, and so is pod traffic that leaves it when MasqueradeEgress is set.
	ClusterCIDR string
	// MasqueradeEgress rewrites the source of pod traffic to destinations outside ClusterCIDR to the node's address.
	MasqueradeEgress bool
	// MasqueradeAll rewrites the source of all traffic to service IPs.
	MasqueradeAll bool
	// HealthzBindAddress serves /healthz and /livez. Empty means 0.0.0.0:10256, "-" means no server.
	HealthzBindAddress string
	// NodePortCIDRs limits the node addresses that answer on node ports. Empty means the node's own InternalIPs.
	NodePortCIDRs []string
}

// Run writes service rules until ctx ends; it leaves them in the kernel, so that traffic goes on while it is restarted.
func Run(ctx context.Context, cfg Config) error {
	return errors.New("proxy-lite: not built yet")
}
