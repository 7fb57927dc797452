package podnetwork

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"keelson.dev/internal/statefile"
)

// confName sorts before what other CNI plugins install, and is the only file we write.
const confName = "10-keelson.conflist"

// networkName is also the folder below the data folder in which the plugin keeps the addresses that are taken.
const networkName = "keelson"

// conflist returns the CNI configuration for pods out of these CIDRs: a routed veth pair per pod (docs/adr/0001-pod-network.md),
// addresses by host-local, and port mappings for hostPort.
func conflist(cidrs []netip.Prefix, dataDir string, mtu int) ([]byte, error) {
	type object = map[string]any
	ranges := []any{}
	routes := []any{}
	for _, cidr := range cidrs {
		ranges = append(ranges, []any{object{"subnet": cidr.String()}})
		everywhere := "0.0.0.0/0"
		if cidr.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	link := object{
		"type": "ptp", "ipMasq": false,
		"ipam": object{"type": "host-local", "dataDir": dataDir, "ranges": ranges, "routes": routes},
	}
	if mtu > 0 {
		link["mtu"] = mtu
	}
	ports := object{"type": "portmap", "capabilities": object{"portMappings": true}, "backend": "nftables", "snat": true}
	text, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0", "name": networkName, "plugins": []any{link, ports},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return text, nil
}

// podMTU is what pods may send without a fragment: what the node's links carry, less what a tunnel adds. Pods that are older than the
// first tunnel learn of it by path MTU discovery. 0 leaves the choice to the plugin.
func (s *syncer) podMTU(network Network) int {
	least := 0
	for _, address := range network.Addresses {
		mtu, err := linkMTU(address)
		if err != nil {
			continue
		}
		for _, t := range tunnels {
			if t.family == family(address) && (s.config.VXLAN || len(t.peers(network)) > 0) {
				mtu -= t.overhead
			}
		}
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	return least
}

// writeCNI puts the configuration where the runtime watches for it, in one step. Without a pod CIDR there is none yet.
func (s *syncer) writeCNI(network Network) error {
	if len(network.PodCIDRs) == 0 {
		return nil
	}
	text, err := conflist(network.PodCIDRs, s.config.DataDir, s.podMTU(network))
	if err != nil {
		return err
	}
	path := filepath.Join(s.config.ConfDir, confName)
	if s.written == nil { // after a restart: what is right already stays untouched
		s.written, _ = os.ReadFile(path)
	}
	if bytes.Equal(text, s.written) {
		return nil
	}
	if err := os.MkdirAll(s.config.ConfDir, 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(s.config.DataDir, networkName), 0o700); err != nil { // the plugin would let everybody read it
		return fmt.Errorf("make the folder of pod addresses: %w", err)
	}
	if err := statefile.Write(path, text, 0o600); err != nil { // the runtime reads no name that ends as what is staged
		return fmt.Errorf("CNI configuration: %w", err)
	}
	s.written = text
	return nil
}
