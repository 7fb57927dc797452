package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const (
	imagePolicyAudit  = "imagepolicywebhook.image-policy.k8s.io/"
	imagePolicyDomain = ".image-policy.k8s.io/" // of the annotations that the webhook sees
	imagePolicyFailed = "alpha.image-policy.k8s.io/failed-open"
	imageAnswers      = 1024 // answers that are remembered
)

// imagePolicyConfig is the file of the plugin, without a kind. Times are in seconds, the back-off in milliseconds; 0 means the
// default, -1 none.
type imagePolicyConfig struct {
	Kubeconfig   string        `json:"kubeConfigFile"`
	AllowTTL     time.Duration `json:"allowTTL"`
	DenyTTL      time.Duration `json:"denyTTL"`
	RetryBackoff time.Duration `json:"retryBackoff"`
	DefaultAllow bool          `json:"defaultAllow"`
}

func (c *imagePolicyConfig) complete() error {
	for _, d := range []struct {
		value           *time.Duration
		unit            time.Duration
		least, most, or time.Duration
	}{
		{&c.RetryBackoff, time.Millisecond, 1, 5 * time.Minute, 500 * time.Millisecond},
		{&c.AllowTTL, time.Second, time.Second, 30 * time.Minute, 5 * time.Minute},
		{&c.DenyTTL, time.Second, time.Second, 30 * time.Minute, 30 * time.Second},
	} {
		switch *d.value {
		case -1:
			*d.value = 0
		case 0:
			*d.value = d.or
		default:
			if *d.value *= d.unit; *d.value < d.least || *d.value > d.most {
				return fmt.Errorf("valid value is between %v and %v, got %v", d.least, d.most, *d.value)
			}
		}
	}
	return nil
}

func loadImagePolicy(config io.Reader) (func(dependencies) hooks, error) {
	if config == nil {
		return nil, errors.New("no config specified")
	}
	data, err := io.ReadAll(config)
	if err != nil {
		return nil, fmt.Errorf("read ImagePolicyWebhook configuration: %w", err)
	}
	var file struct {
		ImagePolicy imagePolicyConfig `json:"imagePolicy"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("parse ImagePolicyWebhook configuration: %w", err)
	}
	c := file.ImagePolicy
	if err := c.complete(); err != nil {
		return nil, err
	}
	client, err := webhook.LoadKubeconfig(c.Kubeconfig, nil)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := imagepolicyv1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	hook, err := webhook.NewGenericWebhook(scheme, serializer.NewCodecFactory(scheme), client,
		[]schema.GroupVersion{imagepolicyv1alpha1.SchemeGroupVersion}, webhook.DefaultRetryBackoffWithInitialDelay(c.RetryBackoff))
	if err != nil {
		return nil, fmt.Errorf("build the image policy's client: %w", err)
	}
	policy := &imagePolicy{config: c, hook: hook, answers: cache.NewLRUExpireCache(imageAnswers)}
	return func(dependencies) hooks { return hooks{validate: policy.judge} }, nil
}

// imagePolicy asks a server whether the images of a pod may run.
type imagePolicy struct {
	config  imagePolicyConfig
	hook    *webhook.GenericWebhook
	answers *cache.LRUExpireCache
}

func (p *imagePolicy) judge(ctx context.Context, a admission.Attributes) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil
	}
	review := &imagepolicyv1alpha1.ImageReview{Spec: imagepolicyv1alpha1.ImageReviewSpec{Namespace: a.GetNamespace()}}
	add := func(image string) {
		review.Spec.Containers = append(review.Spec.Containers, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	switch a.GetSubresource() {
	case "":
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				add(list[i].Image)
			}
		}
	case "ephemeralcontainers":
		for i := range pod.Spec.EphemeralContainers {
			add(pod.Spec.EphemeralContainers[i].Image)
		}
	default:
		return nil
	}
	review.Spec.Annotations = map[string]string{}
	for key, value := range pod.Annotations {
		if strings.Contains(key, imagePolicyDomain) {
			review.Spec.Annotations[key] = value
		}
	}
	if err := p.ask(ctx, review); err != nil {
		return p.unreachable(pod, a, err)
	}
	for key, value := range review.Status.AuditAnnotations {
		_ = a.AddAnnotation(imagePolicyAudit+key, value) // a server's bad key spoils its note, not the request
	}
	switch {
	case review.Status.Allowed:
		return nil
	case review.Status.Reason != "":
		return admission.NewForbidden(a, fmt.Errorf("image policy webhook backend denied one or more images: %s", review.Status.Reason))
	}
	return admission.NewForbidden(a, errors.New("one or more images rejected by webhook backend"))
}

// ask fills the review's status, from memory if the same was asked a short time ago.
func (p *imagePolicy) ask(ctx context.Context, review *imagepolicyv1alpha1.ImageReview) error {
	key, err := json.Marshal(review.Spec)
	if err != nil {
		return fmt.Errorf("encode image review: %w", err)
	}
	if known, ok := p.answers.Get(string(key)); ok {
		review.Status = known.(imagepolicyv1alpha1.ImageReviewStatus)
		return nil
	}
	result := p.hook.WithExponentialBackoff(ctx, func() rest.Result { return p.hook.RestClient.Post().Body(review).Do(ctx) })
	if err := result.Error(); err != nil {
		return err
	}
	code := 0
	if result.StatusCode(&code); code < 200 || code >= 300 {
		return fmt.Errorf("Error contacting webhook: %d", code) //nolint:staticcheck // the API's wording
	}
	if err := result.Into(review); err != nil {
		return err
	}
	ttl := p.config.DenyTTL
	if review.Status.Allowed {
		ttl = p.config.AllowTTL
	}
	p.answers.Add(string(key), review.Status, ttl)
	return nil
}

// unreachable lets pods through if the configuration wants it so, and marks them.
func (p *imagePolicy) unreachable(pod *corev1.Pod, a admission.Attributes, err error) error {
	if !p.config.DefaultAllow {
		return admission.NewForbidden(a, err)
	}
	_ = a.AddAnnotation(imagePolicyAudit+"failed-open", "true")
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[imagePolicyFailed] = "true"
	return nil
}
