package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// auditLog is where a server tells who changed what. It is bounded: a file of 100 MB and ten older ones, compressed, for 30 days, which
// are the figures that the CIS benchmark asks for.
const auditLog = "/var/log/keelson/audit.log"

func auditFlags(policy string) []string {
	return []string{
		"--audit-policy-file=" + policy, "--audit-log-path=" + auditLog,
		"--audit-log-maxsize=100", "--audit-log-maxbackup=10", "--audit-log-maxage=30", "--audit-log-compress=true",
	}
}

// ensureAuditPolicy writes the policy where there is none; a user's own is left alone.
func ensureAuditPolicy(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	return nil
}

// auditPolicy tells who asked for what and never what was in it. What a cluster does by itself all the time without changing anything
// is left out.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"]
- level: None
  resources:
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: coordination.k8s.io, resources: [leases]}
- level: None
  users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes"]
  resources:
  - {group: "", resources: ["nodes/status", "pods/status"]}
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: Metadata
`
