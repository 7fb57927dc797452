package cluster

import (
	"net"
	"strings"
	"testing"
)

func TestRegistryPortTakenEverywhere(t *testing.T) {
	if err := checkRegistryPort(); err != nil {
		t.Skipf("the port is taken on this machine: %v", err)
	}
	everywhere, err := net.Listen("tcp", "0.0.0.0:"+registryPort)
	if err != nil {
		t.Skipf("a cluster of this machine has its registry on the port: %v", err)
	}
	defer everywhere.Close()
	if err := checkRegistryPort(); err == nil || !strings.Contains(err.Error(), "port "+registryPort) {
		t.Errorf("a taken port is not told: %v", err)
	}
}
