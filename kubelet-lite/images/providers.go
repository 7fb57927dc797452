package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfigv1 "k8s.io/kubelet/config/v1"
	credentialproviderv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"
)

// providerTimeout bounds a run of a credential provider.
const providerTimeout = time.Minute

// providerVersions are those of the API that is spoken to providers; they differ in nothing that we use but the token's fields of v1.
var providerVersions = []string{credentialproviderv1.SchemeGroupVersion.String(), "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"}

// Provider is a program that is asked for the credentials of the images that it matches (KEP-2133), for each service account apart if it
// wants the account's token (KEP-4412). Its answers are kept for as long as they say.
type Provider struct {
	kubeletconfigv1.CredentialProvider

	program string
	client  kubernetes.Interface // for tokens
	clock   clock.PassiveClock
	runs    singleflight.Group

	mu    sync.Mutex
	cache map[string]answer
}

type answer struct {
	auth  map[string]credentialproviderv1.AuthConfig
	until time.Time
}

// LoadProviders reads a CredentialProviderConfig, from a file or all of a folder's .yaml, .yml and .json files. The programs are in bin.
func LoadProviders(path, bin string, client kubernetes.Interface, clock clock.PassiveClock) ([]*Provider, error) {
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("credential providers: %w", err)
	} else if info.IsDir() {
		files = nil
		for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
			found, _ := filepath.Glob(filepath.Join(path, pattern)) // the patterns are valid
			files = append(files, found...)
		}
		slices.Sort(files)
	}
	var out []*Provider
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("credential providers: %w", err)
		}
		var config kubeletconfigv1.CredentialProviderConfig
		if err := yaml.UnmarshalStrict(data, &config); err != nil {
			return nil, fmt.Errorf("credential providers of %s: %w", file, err)
		}
		if group, _, _ := strings.Cut(config.APIVersion, "/"); group != kubeletconfigv1.GroupName || config.Kind != "CredentialProviderConfig" {
			return nil, fmt.Errorf("credential providers of %s: it is a %s %s", file, config.APIVersion, config.Kind)
		}
		for _, c := range config.Providers {
			if err := valid(&c); err != nil {
				return nil, fmt.Errorf("credential provider %q: %w", c.Name, err)
			}
			if slices.ContainsFunc(out, func(p *Provider) bool { return p.Name == c.Name }) {
				return nil, fmt.Errorf("credential provider %q: there are two of that name", c.Name)
			}
			program, err := exec.LookPath(filepath.Join(bin, c.Name))
			if err != nil {
				return nil, fmt.Errorf("credential provider %q: %w", c.Name, err)
			}
			out = append(out, &Provider{CredentialProvider: c, program: program, client: client, clock: clock, cache: map[string]answer{}})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("credential providers: %s names none", path)
	}
	return out, nil
}

func valid(c *kubeletconfigv1.CredentialProvider) error {
	t := c.TokenAttributes
	switch {
	case c.Name == "" || c.Name == "." || c.Name == ".." || strings.ContainsAny(c.Name, "/ "):
		return errors.New("the name is not that of a program")
	case !slices.Contains(providerVersions, c.APIVersion):
		return fmt.Errorf("apiVersion %q is none of %v", c.APIVersion, providerVersions)
	case len(c.MatchImages) == 0:
		return errors.New("matchImages is required")
	case c.DefaultCacheDuration == nil || c.DefaultCacheDuration.Duration < 0:
		return errors.New("defaultCacheDuration is required and must not be negative")
	case t == nil:
		return nil
	case c.APIVersion != providerVersions[0]:
		return fmt.Errorf("tokenAttributes needs apiVersion %s", providerVersions[0])
	case t.ServiceAccountTokenAudience == "" || t.RequireServiceAccount == nil:
		return errors.New("tokenAttributes needs serviceAccountTokenAudience and requireServiceAccount")
	case t.CacheType != kubeletconfigv1.ServiceAccountServiceAccountTokenCacheType && t.CacheType != kubeletconfigv1.TokenServiceAccountTokenCacheType:
		return fmt.Errorf("tokenAttributes.cacheType %q is neither ServiceAccount nor Token", t.CacheType)
	case !*t.RequireServiceAccount && len(t.RequiredServiceAccountAnnotationKeys) > 0:
		return errors.New("requiredServiceAccountAnnotationKeys needs requireServiceAccount")
	}
	return nil
}

// credentials are those that the provider has for an image, given by its repository. None are no error: the image may be public.
func (p *Provider) credentials(ctx context.Context, pod *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	if !slices.ContainsFunc(p.MatchImages, func(pattern string) bool { return matches(pattern, image) }) {
		return nil, nil
	}
	request := &credentialproviderv1.CredentialProviderRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: p.APIVersion, Kind: "CredentialProviderRequest"}, Image: image,
	}
	account, ok, err := p.account(ctx, pod, request)
	if err != nil || !ok {
		return nil, err
	}
	auth, err := p.ask(ctx, request, account)
	if err != nil {
		return nil, err
	}
	var out []*runtimeapi.AuthConfig
	for _, pattern := range slices.Sorted(maps.Keys(auth)) {
		if matches(pattern, image) {
			out = append(out, &runtimeapi.AuthConfig{Username: auth[pattern].Username, Password: auth[pattern].Password})
		}
	}
	return out, nil
}

// account adds to the request what a provider wants that gives by service account, and returns what tells accounts apart; false means
// that the provider does not serve this pod.
func (p *Provider) account(ctx context.Context, pod *corev1.Pod, request *credentialproviderv1.CredentialProviderRequest) (key string, served bool, err error) {
	t, name := p.TokenAttributes, pod.Spec.ServiceAccountName
	if t == nil || name == "" {
		return "", t == nil || !*t.RequireServiceAccount, nil
	}
	accounts := p.client.CoreV1().ServiceAccounts(pod.Namespace)
	account, err := accounts.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", false, fmt.Errorf("get service account: %w", err)
	}
	request.ServiceAccountAnnotations = map[string]string{}
	for _, key := range slices.Concat(t.RequiredServiceAccountAnnotationKeys, t.OptionalServiceAccountAnnotationKeys) {
		if value, ok := account.Annotations[key]; ok {
			request.ServiceAccountAnnotations[key] = value
		} else if slices.Contains(t.RequiredServiceAccountAnnotationKeys, key) {
			return "", false, nil // this is how accounts opt in
		}
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{UID: account.UID},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{t.ServiceAccountTokenAudience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", false, fmt.Errorf("get service account token: %w", err)
	}
	request.ServiceAccountToken = token.Status.Token
	parts := []any{pod.Namespace, name, account.UID, request.ServiceAccountAnnotations}
	if t.CacheType == kubeletconfigv1.TokenServiceAccountTokenCacheType {
		parts = append(parts, sha256.Sum256([]byte(request.ServiceAccountToken)))
	}
	text, err := json.Marshal(parts)
	return string(text), true, err
}

// ask returns an answer that was kept, or runs the program; several that ask the same wait for one run.
func (p *Provider) ask(ctx context.Context, request *credentialproviderv1.CredentialProviderRequest, account string) (map[string]credentialproviderv1.AuthConfig, error) {
	registry, _, _ := strings.Cut(request.Image, "/")
	keys := map[credentialproviderv1.PluginCacheKeyType]string{
		credentialproviderv1.ImagePluginCacheKeyType:    "image " + request.Image + " " + account,
		credentialproviderv1.RegistryPluginCacheKeyType: "registry " + registry + " " + account,
		credentialproviderv1.GlobalPluginCacheKeyType:   "global " + account,
	}
	now := p.clock.Now()
	p.mu.Lock()
	for _, key := range keys {
		if kept, ok := p.cache[key]; ok && now.Before(kept.until) {
			p.mu.Unlock()
			return kept.auth, nil
		}
	}
	p.mu.Unlock()
	same := fmt.Sprintf("%s %s %x", request.Image, account, sha256.Sum256([]byte(request.ServiceAccountToken)))
	result, err, _ := p.runs.Do(same, func() (any, error) { return p.run(context.WithoutCancel(ctx), request) }) // others wait for it too
	if err != nil {
		return nil, err
	}
	response := result.(*credentialproviderv1.CredentialProviderResponse)
	key, ok := keys[response.CacheKeyType]
	if !ok {
		return nil, fmt.Errorf("it answers with cacheKeyType %q", response.CacheKeyType)
	}
	if t := p.TokenAttributes; t != nil && request.ServiceAccountToken != "" && t.CacheType != kubeletconfigv1.TokenServiceAccountTokenCacheType {
		for _, auth := range response.Auth {
			if auth.Password == request.ServiceAccountToken {
				return nil, errors.New("it returns the service account's token, which needs cacheType Token")
			}
		}
	}
	keep := p.DefaultCacheDuration.Duration
	if response.CacheDuration != nil {
		keep = response.CacheDuration.Duration
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.cache, func(_ string, kept answer) bool { return !now.Before(kept.until) })
	if keep > 0 {
		p.cache[key] = answer{response.Auth, now.Add(keep)}
	}
	return response.Auth, nil
}

// run asks the program, which reads the request from its standard input and writes the answer to its output.
func (p *Provider) run(ctx context.Context, request *credentialproviderv1.CredentialProviderRequest) (*credentialproviderv1.CredentialProviderResponse, error) {
	input, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	var output, complaint bytes.Buffer
	command := exec.CommandContext(ctx, p.program, p.Args...)
	command.Stdin, command.Stdout, command.Stderr, command.Env = bytes.NewReader(input), &output, &complaint, os.Environ()
	command.WaitDelay = time.Second // a child of it may hold the output
	for _, v := range p.Env {
		command.Env = append(command.Env, v.Name+"="+v.Value)
	}
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("run: %w: %s", err, complaint.String())
	}
	var response credentialproviderv1.CredentialProviderResponse
	if json.Unmarshal(output.Bytes(), &response) != nil {
		return nil, errors.New("its answer is not JSON") // what it is may be secret
	}
	if response.APIVersion != p.APIVersion || response.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("it answers with a %s %s", response.APIVersion, response.Kind)
	}
	return &response, nil
}

// provided are the credentials of all providers. One that fails is told of in the log: the image may be public, or another may know.
func (m *Manager) provided(ctx context.Context, pod *corev1.Pod, image string) (out []*runtimeapi.AuthConfig) {
	for _, p := range m.cfg.Providers {
		auths, err := p.credentials(ctx, pod, image)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Credential provider failed", "provider", p.Name, "image", image, "pod", klog.KObj(pod))
		}
		out = append(out, auths...)
	}
	return out
}
