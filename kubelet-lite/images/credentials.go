package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// dockerConfig is the part of ~/.docker/config.json that pull secrets hold.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of user:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials returns those of the pod's pull secrets that fit the image, and what the node's providers have for it. A missing secret is no error: the image may be public.
func (m *Manager) credentials(ctx context.Context, pod *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	var out []*runtimeapi.AuthConfig
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := m.cfg.Secrets.Secret(ctx, pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			klog.FromContext(ctx).Info("Pull secret not found", "pod", klog.KObj(pod), "secret", ref.Name)
			m.cfg.Recorder.Eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pull secret %s: %w", ref.Name, err)
		}
		auths, err := parseSecret(secret)
		if err != nil {
			return nil, fmt.Errorf("pull secret %s: %w", ref.Name, err)
		}
		for registry, auth := range auths {
			if matches(registry, image) {
				out = append(out, auth.config())
			}
		}
	}
	if len(m.cfg.Providers) > 0 {
		if named, err := reference.ParseNormalizedNamed(image); err == nil {
			out = append(out, m.provided(ctx, pod, named.Name())...)
		}
	}
	return out, nil
}

func parseSecret(secret *corev1.Secret) (map[string]dockerAuth, error) {
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		var config dockerConfig
		err := json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &config)
		return config.Auths, err
	case corev1.SecretTypeDockercfg:
		var auths map[string]dockerAuth
		err := json.Unmarshal(secret.Data[corev1.DockerConfigKey], &auths)
		return auths, err
	default: // no credentials for images
		return nil, nil
	}
}

func (a dockerAuth) config() *runtimeapi.AuthConfig {
	out := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if data, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Auth != "" {
		out.Username, out.Password, _ = strings.Cut(strings.TrimRight(string(data), "\x00"), ":")
	}
	return out
}

// matches reports whether a registry key such as "https://index.docker.io/v1/", "*.example.com" or "example.com/team" covers an image.
func matches(key, image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, prefix, _ := strings.Cut(key, "/")
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "v1" || prefix == "v2" {
		prefix = ""
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	patterns, parts := strings.Split(host, "."), strings.Split(reference.Domain(named), ".")
	if len(patterns) != len(parts) { // a * stands for one part of the name
		return false
	}
	for i := range parts {
		if ok, err := path.Match(patterns[i], parts[i]); err != nil || !ok {
			return false
		}
	}
	repo := reference.Path(named)
	return prefix == "" || repo == prefix || strings.HasPrefix(repo, prefix+"/")
}
