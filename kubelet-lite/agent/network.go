package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"
)

// cniConfigName sorts before what others may put there: the runtime takes the first file.
const cniConfigName = "10-keelson.conflist"

// writeCNI gives the runtime the pod network: a routed veth pair per pod (docs/adr/0001) with an address of the node's pod CIDRs.
func (a *agent) writeCNI(ctx context.Context, cidrs []string) error {
	if a.cfg.CNIConfDir == "" {
		return nil
	}
	data, err := cniConfig(cidrs, a.cfg.CNIMTU)
	if err != nil {
		return err
	}
	path := filepath.Join(a.cfg.CNIConfDir, cniConfigName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.MkdirAll(a.cfg.CNIConfDir, 0o755); err != nil {
		return fmt.Errorf("make CNI folder: %w", err)
	}
	temporary := filepath.Join(a.cfg.CNIConfDir, "."+cniConfigName)
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	klog.FromContext(ctx).Info("Pod network configured", "podCIDRs", cidrs, "path", path)
	return nil
}

func cniConfig(cidrs []string, mtu int) ([]byte, error) {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, cidr := range cidrs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
		everywhere := "0.0.0.0/0"
		if bytes.ContainsRune([]byte(cidr), ':') {
			everywhere = "::/0"
		}
		routes = append(routes, map[string]string{"dst": everywhere})
	}
	pair := map[string]any{
		"type": "ptp", "ipMasq": false,
		"ipam": map[string]any{"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": ranges, "routes": routes},
	}
	if mtu > 0 {
		pair["mtu"] = mtu
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": "keelson",
		"plugins": []any{pair, map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "backend": "nftables", "snat": true}},
	}, "", "  ")
}
