// Package cri speaks to the container runtime: it dials it, turns pods into sandbox and container configurations, reads back what
// runs, and follows the runtime's events. Everything that must survive a restart of the agent is written into labels and
// annotations here and read back here.
package cri

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
)

// requestTimeout bounds a runtime request other than image pulls; the client doubles it for sandbox creation.
const requestTimeout = 2 * time.Minute

// Client is a connection to a runtime.
type Client struct {
	Runtime cri.RuntimeService
	Images  cri.ImageManagerService
	// The plain clients of the same endpoints, for streaming and statistics.
	RuntimeClient runtimeapi.RuntimeServiceClient
	ImageClient   runtimeapi.ImageServiceClient
}

// Dial connects to the runtime and image endpoints (unix:// URLs); an empty imageEndpoint means the runtime serves both.
func Dial(ctx context.Context, endpoint, imageEndpoint string) (*Client, error) {
	if imageEndpoint == "" {
		imageEndpoint = endpoint
	}
	runtime, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).
		WithConnectionTimeout(requestTimeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to runtime %s: %w", endpoint, err)
	}
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint(imageEndpoint).
		WithConnectionTimeout(requestTimeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to image service %s: %w", imageEndpoint, err)
	}
	runtimeConn, err := plain(endpoint)
	if err != nil {
		return nil, err
	}
	imageConn := runtimeConn
	if imageEndpoint != endpoint {
		if imageConn, err = plain(imageEndpoint); err != nil {
			return nil, err
		}
	}
	return &Client{
		Runtime: countedRuntime{runtime}, Images: countedImages{images},
		RuntimeClient: runtimeapi.NewRuntimeServiceClient(runtimeConn), ImageClient: runtimeapi.NewImageServiceClient(imageConn),
	}, nil
}

// maxMessage is the most that a runtime may answer: listings of a full node exceed gRPC's default of 4 MiB.
const maxMessage = 16 << 20

func plain(endpoint string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return conn, nil
}

// CgroupDriver asks the runtime which driver it uses. A runtime that does not say uses cgroupfs.
func (c *Client) CgroupDriver(ctx context.Context) runtimeapi.CgroupDriver {
	resp, err := c.Runtime.RuntimeConfig(ctx)
	if err != nil || resp.GetLinux() == nil {
		return runtimeapi.CgroupDriver_CGROUPFS
	}
	return resp.GetLinux().GetCgroupDriver()
}

// ContainerIDPrefix precedes IDs in the API: "containerd://<id>".
func (c *Client) ContainerIDPrefix(ctx context.Context) (string, error) {
	version, err := c.Runtime.Version(ctx, "v1")
	if err != nil {
		return "", fmt.Errorf("runtime version: %w", err)
	}
	return version.GetRuntimeName() + "://", nil
}
