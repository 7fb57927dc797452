package volumes

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

var errUnsupported = errors.New("this volume type is not supported yet")

func (m *Manager) setUpClaim(context.Context, *corev1.Pod, *corev1.Volume) (*mounted, error) {
	return nil, errUnsupported
}
func (m *Manager) setUpNFS(context.Context, *corev1.Pod, *corev1.Volume) (*mounted, error) {
	return nil, errUnsupported
}
func (m *Manager) setUpInlineCSI(context.Context, *corev1.Pod, *corev1.Volume) (*mounted, error) {
	return nil, errUnsupported
}
func (m *Manager) republish(context.Context, *corev1.Pod, *corev1.Volume) error { return nil }
func (m *Manager) unpublishAll(context.Context, string) error                   { return nil }

type csiDrivers struct{}

func newCSIDrivers(Config, func()) *csiDrivers { return &csiDrivers{} }
func (*csiDrivers) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
func usesCSI(*corev1.Pod) bool { return false }

type podCertificates struct{}

func newPodCertificates(Config) *podCertificates { return &podCertificates{} }
func (*podCertificates) payload(context.Context, *corev1.Pod, string, *corev1.PodCertificateProjection, defaults) (payload, error) {
	return nil, errUnsupported
}
func (*podCertificates) nextRefresh(types.UID) time.Time { return time.Time{} }
func (*podCertificates) forget(types.UID)                {}
