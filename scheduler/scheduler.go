// Package scheduler gives every pending pod a node. It watches pods and nodes, decides one pod at a time against a snapshot of
// the cluster, and binds in the background; the plugins that decide live under plugins/.
package scheduler

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

// Config says how a scheduler runs.
type Config struct {
	// RESTConfig reaches the API server; its user needs the rights of system:kube-scheduler.
	RESTConfig *rest.Config
	// LeaderElect makes the scheduler wait for the Lease kube-system/kube-scheduler before it works.
	LeaderElect bool
	// ConfigFile is a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1). Empty means the defaults.
	ConfigFile string
}

// Run schedules until ctx ends. It returns nil when ctx is cancelled and an error when it cannot go on, such as a lost lease.
func Run(ctx context.Context, cfg Config) error {
	return errors.New("scheduler: not built yet")
}
