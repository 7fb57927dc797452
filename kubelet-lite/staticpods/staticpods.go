// Package staticpods reads pods from a folder of manifests. They belong to the node: no API server is needed to run them. Each is
// shown in the API by a mirror pod.
package staticpods

import (
	"context"
	"crypto/md5" //nolint:gosec // names things, protects nothing
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"
)

// The annotations that tell static pods and their mirrors from others.
const (
	SourceAnnotation = "kubernetes.io/config.source"
	HashAnnotation   = "kubernetes.io/config.hash"
	MirrorAnnotation = "kubernetes.io/config.mirror"
	SeenAnnotation   = "kubernetes.io/config.seen"
)

// IsStatic reports whether a pod comes from a file.
func IsStatic(pod *corev1.Pod) bool {
	source := pod.Annotations[SourceAnnotation]
	return source != "" && source != "api" && pod.Annotations[MirrorAnnotation] == ""
}

// IsMirror reports whether an API object merely shows a static pod.
func IsMirror(pod *corev1.Pod) bool { _, ok := pod.Annotations[MirrorAnnotation]; return ok }

// Source watches a folder.
type Source struct {
	Dir      string
	NodeName string
	// Default fills in a pod spec's defaults, which no API server does here.
	Default func(*corev1.PodSpec)
	Clock   clock.Clock
}

// settle is how long a folder must be quiet before it is read: editors write a file in several steps.
const settle = 100 * time.Millisecond

// Run calls changed with all pods of the folder, at the start and after each change.
func (s *Source) Run(ctx context.Context, changed func([]*corev1.Pod)) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("make manifest folder: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(s.Dir); err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	changed(s.read(ctx))
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			quiet = s.Clock.After(settle)
		case err := <-watcher.Errors:
			klog.FromContext(ctx).Info("Manifest events lost, reading the folder again", "err", err)
			quiet = s.Clock.After(settle)
		case <-quiet:
			quiet = nil
			changed(s.read(ctx))
		}
	}
}

func (s *Source) read(ctx context.Context) []*corev1.Pod {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Manifest folder not read", "path", s.Dir)
		return nil
	}
	var pods []*corev1.Pod
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue
		}
		path := filepath.Join(s.Dir, e.Name())
		pod, err := s.parse(path)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Manifest not used", "path", path)
			continue
		}
		pods = append(pods, pod)
	}
	return pods
}

func (s *Source) parse(path string) (*corev1.Pod, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	if err := yaml.Unmarshal(data, pod); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if pod.Kind != "Pod" || len(pod.Spec.Containers) == 0 || pod.Name == "" {
		return nil, errors.New("not a Pod with a name and a container")
	}
	sum := md5.Sum(append(data, []byte(s.NodeName+path)...)) //nolint:gosec // as above
	hash := hex.EncodeToString(sum[:])
	pod.UID = types.UID(hash)
	pod.Name += "-" + strings.ToLower(s.NodeName)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[SourceAnnotation], pod.Annotations[HashAnnotation] = "file", hash
	pod.Annotations[SeenAnnotation] = s.Clock.Now().Format(time.RFC3339Nano)
	pod.Spec.NodeName = s.NodeName
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	s.Default(&pod.Spec)
	return pod, nil
}

// Mirror is the API object that shows a static pod of a node.
func Mirror(pod *corev1.Pod, node *corev1.Node) *corev1.Pod {
	mirror := &corev1.Pod{ObjectMeta: *pod.ObjectMeta.DeepCopy(), Spec: *pod.Spec.DeepCopy()}
	mirror.UID = ""
	mirror.Annotations[MirrorAnnotation] = pod.Annotations[HashAnnotation]
	if node != nil {
		controller := true
		mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	}
	return mirror
}
