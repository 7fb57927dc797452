package main

import (
	"context"
	"fmt"
	"reflect"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StartContainer of containerd 2.4 ends with the connection it was asked on: the program may run by then, but is killed, its container
// counts as one that could not be started, and the next kubelet runs the program a second time.
func init() {
	registry.Register(&plugin.Registration{
		Type:     "dev.keelson.starts.v1",
		ID:       "cri",
		Requires: []plugin.Type{plugins.GRPCPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			service, err := ic.GetByID(plugins.GRPCPlugin, "cri")
			if err != nil {
				return nil, fmt.Errorf("no CRI plugin: %w", plugin.ErrSkipPlugin)
			}
			return starts{}, completeStarts(service)
		},
	})
}

// completeStarts has the service's StartContainer come to its end. The service is a struct that embeds its parts as interfaces.
func completeStarts(service any) error {
	v := reflect.Indirect(reflect.ValueOf(service))
	if v.Kind() == reflect.Struct {
		if part := v.FieldByName("RuntimeServiceServer"); part.IsValid() && part.CanSet() {
			if server, ok := part.Interface().(cri.RuntimeServiceServer); ok {
				part.Set(reflect.ValueOf(starts{server}))
				return nil
			}
		}
	}
	return fmt.Errorf("CRI plugin is a %T, without a RuntimeServiceServer that can be set", service)
}

// starts is a runtime service that completes what it has begun to start, within the time that the caller gave it.
type starts struct{ cri.RuntimeServiceServer }

// StartContainer implements cri.RuntimeServiceServer.
func (s starts) StartContainer(ctx context.Context, r *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	asked := ctx
	ctx = context.WithoutCancel(asked)
	if deadline, ok := asked.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	return s.RuntimeServiceServer.StartContainer(ctx, r)
}
