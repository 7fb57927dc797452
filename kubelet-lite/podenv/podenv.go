// Package podenv computes a container's environment, command and arguments from everything that a pod spec may name.
package podenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Objects is where ConfigMaps and Secrets come from; *objects.Cache is one.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Input is all that an environment depends on.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	// PodIPs come from the sandbox, HostIPs from the node's addresses; the first of each is the primary one.
	PodIPs, HostIPs []string
	// NodeAllocatable stands in for a limit that the container does not set.
	NodeAllocatable corev1.ResourceList
	// Services are those of the pod's namespace plus default/kubernetes; those without a cluster IP are skipped.
	Services []*corev1.Service
	Objects  Objects
	// ReadFile reads a path inside the named volume for fileKeyRef; fs.ErrNotExist means that it is absent.
	ReadFile func(volume, path string) ([]byte, error)
}

// ErrConfig marks what the user has to fix; the container waits with reason CreateContainerConfigError and the error's text.
var ErrConfig = errors.New("container configuration")

type configError struct{ text string }

func (e configError) Error() string        { return e.text }
func (e configError) Is(target error) bool { return target == ErrConfig }

func configErrorf(format string, args ...any) error { return configError{fmt.Sprintf(format, args...)} }

// For returns the environment, sorted by name. Later sources win: service variables, then envFrom in order, then env, whose
// $(NAME) references see everything before them.
func For(ctx context.Context, in Input) ([]*runtimeapi.KeyValue, error) {
	services := serviceVars(in.Pod, in.Services)
	env := map[string]string{}
	for _, from := range in.Container.EnvFrom {
		if err := addEnvFrom(ctx, in, from, env); err != nil {
			return nil, err
		}
	}
	declared := maps.Clone(env)
	for i := range in.Container.Env {
		v := &in.Container.Env[i]
		value, ok, err := valueOf(ctx, in, v, lookup(declared, services))
		if err != nil {
			return nil, err
		}
		if ok {
			env[v.Name], declared[v.Name] = value, value
		}
	}
	for name, value := range services {
		if _, own := env[name]; !own {
			env[name] = value
		}
	}
	out := make([]*runtimeapi.KeyValue, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(env[name])})
	}
	return out, nil
}

// ExpandCommand resolves $(NAME) in the container's command and arguments.
func ExpandCommand(c *corev1.Container, env []*runtimeapi.KeyValue) (command, args []string) {
	get := Lookup(env)
	for _, s := range c.Command {
		command = append(command, Expand(s, get))
	}
	for _, s := range c.Args {
		args = append(args, Expand(s, get))
	}
	return command, args
}

// Lookup returns a function that finds a variable's value.
func Lookup(env []*runtimeapi.KeyValue) func(string) (string, bool) {
	values := make(map[string]string, len(env))
	for _, kv := range env {
		values[kv.Key] = string(kv.Value)
	}
	return lookup(values)
}

func lookup(layers ...map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, layer := range layers {
			if v, ok := layer[name]; ok {
				return v, true
			}
		}
		return "", false
	}
}

func addEnvFrom(ctx context.Context, in Input, from corev1.EnvFromSource, env map[string]string) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, from.ConfigMapRef.Name)
		if skip, err := missing(err, from.ConfigMapRef.Optional, "configmap", from.ConfigMapRef.Name); skip || err != nil {
			return err
		}
		for k, v := range cm.Data {
			env[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		secret, err := in.Objects.Secret(ctx, in.Pod.Namespace, from.SecretRef.Name)
		if skip, err := missing(err, from.SecretRef.Optional, "secret", from.SecretRef.Name); skip || err != nil {
			return err
		}
		for k, v := range secret.Data {
			env[from.Prefix+k] = string(v)
		}
	}
	return nil
}

// missing decides what a failed lookup means: skip it silently, tell the user, or report the API's trouble.
func missing(err error, optional *bool, kind, name string) (skip bool, _ error) {
	switch {
	case err == nil:
		return false, nil
	case apierrors.IsNotFound(err) && optional != nil && *optional:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, configErrorf("%s %q not found", kind, name)
	}
	return false, configErrorf("%v", err)
}

// valueOf returns ok=false where an optional source is absent, so that the variable is left unset.
func valueOf(ctx context.Context, in Input, v *corev1.EnvVar, get func(string) (string, bool)) (value string, ok bool, err error) {
	if v.ValueFrom == nil {
		return Expand(v.Value, get), true, nil
	}
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err = fieldValue(in, from.FieldRef)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = resourceFieldValue(in, from.ResourceFieldRef)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		return configMapValue(ctx, in, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return secretValue(ctx, in, from.SecretKeyRef)
	case from.FileKeyRef != nil:
		return fileValue(in, from.FileKeyRef)
	}
	return "", true, nil
}

func configMapValue(ctx context.Context, in Input, ref *corev1.ConfigMapKeySelector) (string, bool, error) {
	cm, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, ref.Name)
	if skip, err := missing(err, ref.Optional, "configmap", ref.Name); skip || err != nil {
		return "", false, err
	}
	if v, ok := cm.Data[ref.Key]; ok {
		return v, true, nil
	}
	if ref.Optional != nil && *ref.Optional {
		return "", false, nil
	}
	return "", false, configErrorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
}

func secretValue(ctx context.Context, in Input, ref *corev1.SecretKeySelector) (string, bool, error) {
	secret, err := in.Objects.Secret(ctx, in.Pod.Namespace, ref.Name)
	if skip, err := missing(err, ref.Optional, "secret", ref.Name); skip || err != nil {
		return "", false, err
	}
	if v, ok := secret.Data[ref.Key]; ok {
		return string(v), true, nil
	}
	if ref.Optional != nil && *ref.Optional {
		return "", false, nil
	}
	return "", false, configErrorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
}

// Expand replaces $(NAME) by its value. $$ is an escaped $, and an unknown name stays as written.
func Expand(s string, get func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := get(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}
