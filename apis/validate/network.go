package validate

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IP checks an address of a field that has existed for long: it need not be in canonical form, but leading zeros and IPv4 inside
// of IPv6, which programs read differently, are rejected (StrictIPCIDRValidation, on by default since 1.36).
func IP(value string, path *field.Path) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, value, true, nil)
}

// StrictIP checks an address of a newer field: only the canonical form passes.
func StrictIP(value string, path *field.Path) field.ErrorList {
	return validation.IsValidIP(path, value)
}

// CIDR checks a block of addresses of a field that has existed for long, as strictly as IP; bits beyond the mask are rejected too.
func CIDR(value string, path *field.Path) field.ErrorList {
	return validation.IsValidCIDRForLegacyField(path, value, true, nil)
}

// StrictCIDR checks a block of addresses of a newer field.
func StrictCIDR(value string, path *field.Path) field.ErrorList {
	return validation.IsValidCIDR(path, value)
}

// Port demands a number between 1 and 65535.
func Port(port int32, path *field.Path) field.ErrorList {
	return Messages(path, port, validation.IsValidPortNum(int(port)))
}

// PortOrName demands a port number or the name of a container port.
func PortOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	if port.Type == intstr.String {
		return Messages(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return Messages(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
}

// Protocol demands a transport protocol.
func Protocol(protocol corev1.Protocol, path *field.Path) field.ErrorList {
	return RequiredOneOf(protocol, path, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// DescendingPath demands a relative path that never leaves the directory it is relative to.
func DescendingPath(target string, fieldPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(target) {
		errs = append(errs, field.Invalid(fieldPath, target, "must be a relative path"))
	}
	return append(errs, NoBacksteps(target, fieldPath)...)
}

// NonReservedPath is DescendingPath for files that the kubelet writes: names that begin with two dots are its own.
func NonReservedPath(target string, fieldPath *field.Path) field.ErrorList {
	errs := DescendingPath(target, fieldPath)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(fieldPath, target, "must not start with '..'"))
	}
	return errs
}

// NoBacksteps rejects ".." as an element of a path, with either separator.
func NoBacksteps(target string, fieldPath *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(strings.ReplaceAll(target, `\`, "/"), "/"), "..") {
		return field.ErrorList{field.Invalid(fieldPath, target, "must not contain '..'")}
	}
	return nil
}
