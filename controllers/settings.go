package controllers

import (
	"fmt"
	"net/netip"
	"os"

	"k8s.io/client-go/rest"

	"keelson.dev/controllers/certificates"
	"keelson.dev/controllers/env"
	"keelson.dev/controllers/loadbalancer"
	"keelson.dev/controllers/nodeipam"
	"keelson.dev/controllers/nodelifecycle"
	"keelson.dev/controllers/podgc"
	"keelson.dev/controllers/rootca"
	"keelson.dev/controllers/satokens"
	"keelson.dev/controllers/trustbundle"
	"keelson.dev/internal/satoken"
)

// The functions of this file give controllers their part of the configuration.

func addRootCA(e *env.Env, cfg *Config) error {
	bundle, err := rootCA(cfg.RootCAFile, cfg.RESTConfig)
	if err != nil {
		return err
	}
	if len(bundle) == 0 {
		return nil
	}
	return rootca.Add(e, 2, bundle)
}

func rootCA(file string, cfg *rest.Config) ([]byte, error) {
	if file == "" {
		if len(cfg.CAData) > 0 || cfg.CAFile == "" {
			return cfg.CAData, nil
		}
		file = cfg.CAFile
	}
	bundle, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read root CA: %w", err)
	}
	return bundle, nil
}

func addTokens(e *env.Env, cfg *Config) error {
	if cfg.ServiceAccountKeyFile == "" {
		return nil
	}
	signer, err := satoken.ReadSigner(cfg.ServiceAccountKeyFile)
	if err != nil {
		return err
	}
	bundle, err := rootCA(cfg.RootCAFile, cfg.RESTConfig)
	if err != nil {
		return err
	}
	return satokens.Add(e, 5, signer, bundle)
}

func addTrustBundle(e *env.Env, cfg *Config) error {
	bundle, err := rootCA(cfg.RootCAFile, cfg.RESTConfig)
	if err != nil || len(bundle) == 0 {
		return err
	}
	return trustbundle.Add(e, bundle)
}

func addLoadBalancer(e *env.Env, cfg *Config) error {
	if cfg.LoadBalancerCIDR == "" {
		return nil
	}
	addresses, err := netip.ParsePrefix(cfg.LoadBalancerCIDR)
	if err != nil || !addresses.Addr().Is4() {
		return fmt.Errorf("load balancer addresses %q: an IPv4 range is needed: %w", cfg.LoadBalancerCIDR, err)
	}
	return loadbalancer.Add(e, addresses)
}

func addNodeIPAM(e *env.Env, cfg *Config) error {
	ranges, err := nodeipam.Parse(cfg.ClusterCIDRs, cfg.ServiceCIDRs, cfg.NodeCIDRMaskSize, cfg.NodeCIDRMaskSizeIPv6)
	if err != nil {
		return err
	}
	return nodeipam.Add(e, ranges)
}

func addNodeLifecycle(e *env.Env, cfg *Config) error {
	return nodelifecycle.Add(e, 4, cfg.NodeMonitorGracePeriod)
}

func addPodGC(e *env.Env, cfg *Config) error { return podgc.Add(e, cfg.TerminatedPodGCThreshold) }

func addSigner(e *env.Env, cfg *Config) error {
	if cfg.ClusterSigningCertFile == "" || cfg.ClusterSigningKeyFile == "" {
		return nil
	}
	authority, err := certificates.LoadAuthority(cfg.ClusterSigningCertFile, cfg.ClusterSigningKeyFile, cfg.ClusterSigningDuration, e.Clock)
	if err != nil {
		return err
	}
	return certificates.AddSigner(e, 2, authority)
}
