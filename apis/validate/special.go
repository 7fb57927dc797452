package validate

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// NonSpecialIP rejects addresses that mean something else on every machine.
func NonSpecialIP(address string, path *field.Path) field.ErrorList {
	ip := netutils.ParseIPSloppy(address)
	message := ""
	switch {
	case ip == nil:
		return field.ErrorList{field.Invalid(path, address, "must be a valid IP address")}
	case ip.IsUnspecified():
		message = fmt.Sprintf("may not be unspecified (%v)", address)
	case ip.IsLoopback():
		message = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
	case ip.IsLinkLocalUnicast():
		message = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
	case ip.IsLinkLocalMulticast():
		message = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(path, address, message)}
}

// WarnIP and WarnCIDR tell of values in a form that other software may read differently; values that are no addresses at all are
// left to validation.
func WarnIP(address string, path *field.Path) []string {
	if netutils.ParseIPSloppy(address) == nil {
		return nil
	}
	return validation.GetWarningsForIP(path, address)
}

// WarnCIDR is WarnIP for blocks.
func WarnCIDR(cidr string, path *field.Path) []string {
	if _, _, err := netutils.ParseCIDRSloppy(cidr); err != nil {
		return nil
	}
	return validation.GetWarningsForCIDR(path, cidr)
}
