// Command sample-plugin is a scheduler with a plugin of somebody else's, from a module of its own: Keelson's scheduler is a library
// that takes any plugin of k8s.io/kube-scheduler/framework.
//
//	go run . --kubeconfig F     # with keepOut enabled beside the default plugins
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	fwk "k8s.io/kube-scheduler/framework"

	"keelson.dev/scheduler"
	"keelson.dev/scheduler/profile"
)

// KeepOut refuses nodes that have the label example.com/keep-out, and likes those with example.com/welcome.
type KeepOut struct{}

const (
	name         = "KeepOut"
	keepOutLabel = "example.com/keep-out"
	welcomeLabel = "example.com/welcome"
)

var (
	_ fwk.FilterPlugin      = KeepOut{}
	_ fwk.ScorePlugin       = KeepOut{}
	_ fwk.EnqueueExtensions = KeepOut{}
)

// Name implements fwk.Plugin.
func (KeepOut) Name() string { return name }

// Filter implements fwk.FilterPlugin.
func (KeepOut) Filter(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	if _, ok := node.Node().Labels[keepOutLabel]; ok {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "node(s) asked to be kept free")
	}
	return nil
}

// Score implements fwk.ScorePlugin.
func (KeepOut) Score(_ context.Context, _ fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	if _, ok := node.Node().Labels[welcomeLabel]; ok {
		return fwk.MaxScore, nil
	}
	return 0, nil
}

// ScoreExtensions implements fwk.ScorePlugin.
func (KeepOut) ScoreExtensions() fwk.ScoreExtensions { return nil }

// EventsToRegister implements fwk.EnqueueExtensions: a refused pod is tried again when a node comes or changes its labels.
func (KeepOut) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeLabel}}}, nil
}

// Plugin is what a scheduler is given.
func Plugin() profile.Plugin {
	return profile.Plugin{Name: name, Weight: 100, New: func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return KeepOut{}, nil }}
}

// configuration enables the plugin beside the default ones.
const configuration = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{schedulerName: default-scheduler, plugins: {multiPoint: {enabled: [{name: KeepOut, weight: 100}]}}}]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "how to reach the API server")
	flag.Parse()
	if err := run(ctx, *kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, "sample-plugin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "scheduler-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(configuration); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return scheduler.Run(ctx, scheduler.Config{RESTConfig: restConfig, ConfigFile: file.Name(), Plugins: []profile.Plugin{Plugin()}})
}
