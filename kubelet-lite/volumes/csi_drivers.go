package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	"keelson.dev/kubelet-lite/plugins"
)

// csiTimeout bounds one call to a driver; staging may format a disk.
const csiTimeout = 2 * time.Minute

// nodeIDAnnotation is where attachers find what a driver calls this node.
const nodeIDAnnotation = "csi.volume.kubernetes.io/nodeid"

// csiDrivers are the drivers that have registered on this node. It is a plugins.Handler.
type csiDrivers struct {
	cfg     Config
	changed func()

	mu     sync.Mutex
	byName map[string]*csiDriver
}

type csiDriver struct {
	name         string
	endpoint     string
	conn         *grpc.ClientConn
	node         csi.NodeClient
	capabilities map[csi.NodeServiceCapability_RPC_Type]bool
}

func newCSIDrivers(cfg Config, changed func()) *csiDrivers {
	return &csiDrivers{cfg: cfg, changed: changed, byName: map[string]*csiDriver{}}
}

func (d *csiDrivers) run(ctx context.Context) error {
	handlers := maps.Clone(d.cfg.Plugins)
	if handlers == nil {
		handlers = map[string]plugins.Handler{}
	}
	handlers[plugins.CSI] = d
	return plugins.NewWatcher(filepath.Join(d.cfg.RootDir, "plugins_registry"), handlers).Run(ctx)
}

// Register asks the driver what it calls this node and publishes that.
func (d *csiDrivers) Register(ctx context.Context, plugin plugins.Plugin) error {
	conn, err := plugins.Dial(plugin.Endpoint)
	if err != nil {
		return err
	}
	driver := &csiDriver{name: plugin.Name, endpoint: plugin.Endpoint, conn: conn, node: csi.NewNodeClient(conn), capabilities: map[csi.NodeServiceCapability_RPC_Type]bool{}}
	if err := d.introduce(ctx, driver); err != nil {
		return errors.Join(err, conn.Close())
	}
	d.mu.Lock()
	old := d.byName[plugin.Name]
	d.byName[plugin.Name] = driver
	d.mu.Unlock()
	if old != nil {
		_ = old.conn.Close() // calls in flight fail and are made again
	}
	d.changed()
	return nil
}

func (d *csiDrivers) introduce(ctx context.Context, driver *csiDriver) error {
	answer, err := driver.node.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("ask driver for its capabilities: %w", err)
	}
	for _, c := range answer.Capabilities {
		driver.capabilities[c.GetRpc().GetType()] = true
	}
	info, err := driver.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask driver for its node id: %w", err)
	}
	entry := storagev1.CSINodeDriver{Name: driver.name, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(info.GetAccessibleTopology().GetSegments()))}
	if info.MaxVolumesPerNode > 0 {
		count := int32(min(info.MaxVolumesPerNode, 1<<31-1))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	if err := d.updateNode(ctx, driver.name, &info.NodeId, info.GetAccessibleTopology().GetSegments()); err != nil {
		return fmt.Errorf("update node: %w", err)
	}
	if err := d.updateCSINode(ctx, driver.name, &entry); err != nil {
		return fmt.Errorf("update CSINode: %w", err)
	}
	return nil
}

// Deregister withdraws what was published.
func (d *csiDrivers) Deregister(ctx context.Context, plugin plugins.Plugin) {
	d.mu.Lock()
	driver := d.byName[plugin.Name]
	if driver != nil && driver.endpoint != plugin.Endpoint { // replaced by a newer instance
		d.mu.Unlock()
		return
	}
	delete(d.byName, plugin.Name)
	d.mu.Unlock()
	if driver != nil {
		_ = driver.conn.Close()
	}
	err := errors.Join(d.updateCSINode(ctx, plugin.Name, nil), d.updateNode(ctx, plugin.Name, nil, nil))
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "CSI driver could not be withdrawn", "driver", plugin.Name)
	}
}

func (d *csiDrivers) get(name string) (*csiDriver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if driver := d.byName[name]; driver != nil {
		return driver, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// updateNode records the driver's name for this node, or removes it with a nil id, and sets its topology labels.
func (d *csiDrivers) updateNode(ctx context.Context, driver string, id *string, topology map[string]string) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := d.cfg.Client.CoreV1().Nodes().Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ids, err := withNodeID(node.Annotations[nodeIDAnnotation], driver, id)
		if err != nil {
			return err
		}
		labels := map[string]any{}
		for k, v := range topology {
			if have, ok := node.Labels[k]; ok && have != v {
				return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", k, v, k, have)
			}
			labels[k] = v
		}
		annotations := map[string]any{nodeIDAnnotation: ids}
		if ids == "" {
			annotations[nodeIDAnnotation] = nil
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"resourceVersion": node.ResourceVersion, "labels": labels, "annotations": annotations,
		}})
		if err != nil {
			return err
		}
		_, err = d.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
}

// withNodeID changes one driver's entry of the annotation, a JSON object of driver → id.
func withNodeID(annotation, driver string, id *string) (string, error) {
	ids := map[string]string{}
	if annotation != "" {
		if err := json.Unmarshal([]byte(annotation), &ids); err != nil {
			return "", fmt.Errorf("annotation %s: %w", nodeIDAnnotation, err)
		}
	}
	delete(ids, driver)
	if id != nil {
		ids[driver] = *id
	}
	if len(ids) == 0 {
		return "", nil
	}
	out, err := json.Marshal(ids)
	return string(out), err
}

// updateCSINode puts the driver's entry into this node's CSINode, or removes it with nil.
func (d *csiDrivers) updateCSINode(ctx context.Context, driver string, entry *storagev1.CSINodeDriver) error {
	api := d.cfg.Client.StorageV1().CSINodes()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		current, err := api.Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && entry == nil:
			return nil
		case apierrors.IsNotFound(err):
			return d.createCSINode(ctx, *entry)
		case err != nil:
			return err
		}
		drivers := slices.DeleteFunc(slices.Clone(current.Spec.Drivers), func(have storagev1.CSINodeDriver) bool { return have.Name == driver })
		if entry != nil {
			drivers = append(drivers, *entry)
		}
		current.Spec.Drivers = drivers
		_, err = api.Update(ctx, current, metav1.UpdateOptions{})
		return err
	})
}

func (d *csiDrivers) createCSINode(ctx context.Context, entry storagev1.CSINodeDriver) error {
	node, err := d.cfg.Client.CoreV1().Nodes().Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	_, err = d.cfg.Client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: d.cfg.NodeName, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{entry}},
	}, metav1.CreateOptions{})
	return err
}

func usesCSI(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.CSI != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil
	})
}
