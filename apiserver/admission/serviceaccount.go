package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"keelson.dev/apiserver/authorization/node"
)

const (
	defaultAccount    = "default"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix = "kube-api-access-"
	tokenSeconds      = 3607 // odd on purpose: tokens.projectedLifetimeSeconds recognizes it
	rootCAConfigMap   = "kube-root-ca.crt"
	enforceMountable  = "kubernetes.io/enforce-mountable-secrets"

	// accountWait bounds the wait for a default account: its controller makes it just after the namespace.
	accountWait  = 2 * time.Second
	accountRetry = 100 * time.Millisecond
)

// serviceAccount gives each pod an account, a token of it, and its image pull secrets.
func serviceAccount(d dependencies) hooks {
	informer := d.factory.Core().V1().ServiceAccounts()
	lister := informer.Lister()
	get := func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
		if account, err := lister.ServiceAccounts(namespace).Get(name); err == nil {
			return account, nil
		}
		account, err := d.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		missing := apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
		switch {
		case !apierrors.IsNotFound(err):
			return account, err
		case name != defaultAccount:
			return nil, missing
		}
		// Whoever makes a namespace and a pod in it at once should not have to know about the controller in between. The cache is
		// fed by a watch, so looking into it again is cheap.
		err = wait.PollUntilContextTimeout(ctx, accountRetry, accountWait, false, func(context.Context) (bool, error) {
			found, err := lister.ServiceAccounts(namespace).Get(name)
			account = found
			return err == nil, nil
		})
		if err != nil {
			return nil, missing
		}
		return account, nil
	}
	return hooks{
		synced: []cache.InformerSynced{informer.Informer().HasSynced},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || a.GetOperation() != admission.Create || !mainResource(a) {
				return nil
			}
			if isMirror(pod) {
				return checkMirror(a, pod)
			}
			if pod.Spec.ServiceAccountName == "" {
				pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = defaultAccount, defaultAccount
			}
			account, err := get(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
			if err != nil {
				return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
			}
			if automounts(pod, account) {
				mountToken(pod, names.SimpleNameGenerator)
			}
			if len(pod.Spec.ImagePullSecrets) == 0 {
				pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
			}
			return nil
		},
		validate: func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			ephemeral := a.GetSubresource() == "ephemeralcontainers" && a.GetOperation() == admission.Update
			switch {
			case !ok || (!ephemeral && (a.GetOperation() != admission.Create || !mainResource(a))):
				return nil
			case !ephemeral && isMirror(pod):
				return checkMirror(a, pod)
			case pod.Spec.ServiceAccountName == "":
				return admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
			}
			account, err := get(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
			if err != nil {
				return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
			}
			if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountable]); !enforce {
				return nil
			}
			check := checkMountable
			if ephemeral {
				check = checkMountableEphemeral
			}
			if err := check(pod, account); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		},
	}
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// checkMirror refuses mirror pods that refer to anything: a static pod's manifest is not authorized by anyone.
func checkMirror(a admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	unmarked := pod.DeepCopy()
	delete(unmarked.Annotations, corev1.MirrorPodAnnotationKey)
	if slices.ContainsFunc(node.References(unmarked), func(r node.Reference) bool { return r.Resource == "secrets" }) {
		return admission.NewForbidden(a, errors.New("a mirror pod may not reference secrets"))
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected != nil && slices.ContainsFunc(volume.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.ServiceAccountToken != nil }) {
			return admission.NewForbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
		}
	}
	return nil
}

// checkMountable refuses pods of an account that may use only the secrets which it lists.
func checkMountable(pod *corev1.Pod, account *corev1.ServiceAccount) error {
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil && !lists(account, volume.Secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", volume.Secret.SecretName, account.Name)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := checkEnvironment("init container", c.Name, c.Env, c.EnvFrom, account); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if err := checkEnvironment("container", c.Name, c.Env, c.EnvFrom, account); err != nil {
			return err
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, ref.Name, account.Name)
		}
	}
	return nil
}

func checkMountableEphemeral(pod *corev1.Pod, account *corev1.ServiceAccount) error {
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if err := checkEnvironment("ephemeral container", c.Name, c.Env, c.EnvFrom, account); err != nil {
			return err
		}
	}
	return nil
}

func checkEnvironment(kind, name string, env []corev1.EnvVar, from []corev1.EnvFromSource, account *corev1.ServiceAccount) error {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !lists(account, e.ValueFrom.SecretKeyRef.Name) {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, name, e.Name, e.ValueFrom.SecretKeyRef.Name, account.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil && !lists(account, f.SecretRef.Name) {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, name, f.SecretRef.Name, account.Name)
		}
	}
	return nil
}

func lists(account *corev1.ServiceAccount, secret string) bool {
	return slices.ContainsFunc(account.Secrets, func(s corev1.ObjectReference) bool { return s.Name == secret })
}

// automounts lets the pod decide, then the account; without a word from either the token is mounted.
func automounts(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if mount := pod.Spec.AutomountServiceAccountToken; mount != nil {
		return *mount
	}
	return ptr.Deref(account.AutomountServiceAccountToken, true)
}

// mountToken mounts the account's token, the cluster's CA and the namespace into every container that has nothing at that path.
func mountToken(pod *corev1.Pod, random names.NameGenerator) {
	name, exists := "", false
	for _, volume := range pod.Spec.Volumes {
		if strings.HasPrefix(volume.Name, tokenVolumePrefix) {
			name, exists = volume.Name, true
			break
		}
	}
	if !exists {
		name = random.GenerateName(tokenVolumePrefix)
	}
	mounted := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}
