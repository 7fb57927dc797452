package volumes

import (
	"context"
	"fmt"
	"io/fs"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/kubelet-lite/podenv"
)

// projects says whether a volume's files are projected from API objects.
func projects(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// setUpProjection also serves as the refresh: it writes only what has changed.
func (m *Manager) setUpProjection(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*mounted, error) {
	plugin, inMemory := projectionPlugin(v)
	dir := m.volumeDir(pod.UID, plugin, v.Name)
	want, err := m.payloadFor(ctx, pod, v)
	if err != nil {
		return nil, err
	}
	own := owner{fsGroup: fsGroup(pod), readOnly: true}
	if inMemory {
		err = ensureTmpfs(dir, "") // what may be projected is bounded by the API already
	} else {
		err = ensureDir(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := own.setDir(dir, 0o777); err != nil {
		return nil, err
	}
	if _, err := writeAtomically(dir, want, own, m.cfg.Clock.Now()); err != nil {
		return nil, err
	}
	return &mounted{path: dir, readOnly: true}, nil
}

// projectionPlugin names the directory. All but ConfigMaps live in memory, so that no secret reaches a disk.
func projectionPlugin(v *corev1.Volume) (plugin string, inMemory bool) {
	switch {
	case v.ConfigMap != nil:
		return "configmap", false
	case v.Secret != nil:
		return "secret", true
	case v.DownwardAPI != nil:
		return "downward-api", true
	}
	return "projected", true
}

func (m *Manager) payloadFor(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (payload, error) {
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return m.configMapPayload(ctx, pod, s.Name, s.Items, isTrue(s.Optional), defaults{mode(s.DefaultMode), s.DefaultUser})
	case v.Secret != nil:
		s := v.Secret
		return m.secretPayload(ctx, pod, s.SecretName, s.Items, isTrue(s.Optional), defaults{mode(s.DefaultMode), s.DefaultUser})
	case v.DownwardAPI != nil:
		s := v.DownwardAPI
		return m.downwardPayload(pod, s.Items, defaults{mode(s.DefaultMode), s.DefaultUser})
	}
	return m.projectedPayload(ctx, pod, v)
}

func (m *Manager) projectedPayload(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (payload, error) {
	d := defaults{mode(v.Projected.DefaultMode), v.Projected.DefaultUser}
	all := payload{}
	for i := range v.Projected.Sources {
		part, err := m.sourcePayload(ctx, pod, v.Name, &v.Projected.Sources[i], d)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, part)
	}
	return all, nil
}

func (m *Manager) sourcePayload(ctx context.Context, pod *corev1.Pod, volume string, s *corev1.VolumeProjection, d defaults) (payload, error) {
	switch {
	case s.ConfigMap != nil:
		return m.configMapPayload(ctx, pod, s.ConfigMap.Name, s.ConfigMap.Items, isTrue(s.ConfigMap.Optional), d)
	case s.Secret != nil:
		return m.secretPayload(ctx, pod, s.Secret.Name, s.Secret.Items, isTrue(s.Secret.Optional), d)
	case s.DownwardAPI != nil:
		return m.downwardPayload(pod, s.DownwardAPI.Items, d)
	case s.ServiceAccountToken != nil:
		token, err := m.tokens.get(ctx, pod, s.ServiceAccountToken)
		if err != nil {
			return nil, err
		}
		return payload{s.ServiceAccountToken.Path: d.private(pod, s.ServiceAccountToken.User, []byte(token))}, nil
	case s.ClusterTrustBundle != nil:
		pem, err := m.bundles.get(ctx, s.ClusterTrustBundle)
		if err != nil {
			return nil, err
		}
		return payload{s.ClusterTrustBundle.Path: d.file(pem, nil, s.ClusterTrustBundle.User)}, nil
	case s.PodCertificate != nil:
		return m.certs.payload(ctx, pod, volume, s.PodCertificate, d)
	}
	return nil, nil
}

// defaults fill in what an item leaves open.
type defaults struct {
	mode fs.FileMode
	user *int64
}

func (d defaults) file(data []byte, itemMode *int32, itemUser *int64) file {
	f := file{data: data, mode: d.mode, uid: d.user}
	if itemMode != nil {
		f.mode = mode(itemMode)
	}
	if itemUser != nil {
		f.uid = itemUser
	}
	return f
}

// private is for credentials: once it is known who reads them, nobody else may.
func (d defaults) private(pod *corev1.Pod, itemUser *int64, data []byte) file {
	f := d.file(data, nil, itemUser)
	if f.uid == nil {
		f.uid = soleUser(pod)
	}
	if f.uid != nil || fsGroup(pod) != nil {
		f.mode = 0o600
	}
	return f
}

func (m *Manager) configMapPayload(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional bool, d defaults) (payload, error) {
	cm, err := m.cfg.Objects.ConfigMap(ctx, pod.Namespace, name)
	if err != nil {
		return absent("configmap", name, optional, err)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return itemsPayload(data, items, optional, "configmap references non-existent config key: %s", d)
}

func (m *Manager) secretPayload(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional bool, d defaults) (payload, error) {
	secret, err := m.cfg.Objects.Secret(ctx, pod.Namespace, name)
	if err != nil {
		return absent("secret", name, optional, err)
	}
	return itemsPayload(secret.Data, items, optional, "references non-existent secret key: %s", d)
}

func absent(kind, name string, optional bool, err error) (payload, error) {
	switch {
	case !apierrors.IsNotFound(err):
		return nil, err
	case optional:
		return payload{}, nil
	}
	return nil, fmt.Errorf("%s %q not found", kind, name)
}

// itemsPayload picks the items, or everything if there are none.
func itemsPayload(data map[string][]byte, items []corev1.KeyToPath, optional bool, missing string, d defaults) (payload, error) {
	out := payload{}
	if len(items) == 0 {
		for key, value := range data {
			out[key] = d.file(value, nil, nil)
		}
		return out, nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf(missing, item.Key)
		}
		out[item.Path] = d.file(value, item.Mode, item.User)
	}
	return out, nil
}

func (m *Manager) downwardPayload(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, d defaults) (payload, error) {
	out := payload{}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podenv.PodField(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = podenv.PodResource(pod, item.ResourceFieldRef, m.allocatable())
		}
		if err != nil {
			return nil, err
		}
		out[item.Path] = d.file([]byte(value), item.Mode, item.User)
	}
	return out, nil
}

// mode reads permission bits; objects from storage are defaulted, static pods are too.
func mode(bits *int32) fs.FileMode {
	if bits == nil {
		return 0o644
	}
	return fs.FileMode(*bits) & fs.ModePerm
}

func isTrue(b *bool) bool { return b != nil && *b }
