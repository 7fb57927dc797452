package volumes

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// maxTokenAge bounds how long one token is used, however long it would live.
	maxTokenAge = 24 * time.Hour
	// defaultTokenLife is what the API documents for an unset expirationSeconds.
	defaultTokenLife = 3600
)

// tokens keeps the service account tokens of this node's pods, each bound to its pod.
type tokens struct {
	client kubernetes.Interface
	clock  clock.PassiveClock

	mu    sync.Mutex
	byPod map[types.UID]map[tokenKey]token
}

type tokenKey struct {
	audience string
	seconds  int64
}

type token struct {
	value   string
	refresh time.Time
	expires time.Time
}

func newTokens(client kubernetes.Interface, clock clock.PassiveClock) *tokens {
	return &tokens{client: client, clock: clock, byPod: map[types.UID]map[tokenKey]token{}}
}

func (t *tokens) get(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, error) {
	key := tokenKey{source.Audience, defaultTokenLife}
	if source.ExpirationSeconds != nil {
		key.seconds = *source.ExpirationSeconds
	}
	token, err := t.request(ctx, pod, key)
	return token.value, err
}

// request returns the token in hand until its refresh is due, and that one still, until it expires, if no new one can be had.
func (t *tokens) request(ctx context.Context, pod *corev1.Pod, key tokenKey) (token, error) {
	now := t.clock.Now()
	t.mu.Lock()
	have, ok := t.byPod[pod.UID][key]
	t.mu.Unlock()
	if ok && now.Before(have.refresh) {
		return have, nil
	}
	fresh, err := t.fetch(ctx, pod, key, now)
	switch {
	case err == nil:
	case ok && now.Before(have.expires):
		fresh = have
		fresh.refresh = now.Add(time.Minute)
	default:
		return token{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byPod[pod.UID] == nil {
		t.byPod[pod.UID] = map[tokenKey]token{}
	}
	t.byPod[pod.UID][key] = fresh
	return fresh, nil
}

func (t *tokens) fetch(ctx context.Context, pod *corev1.Pod, key tokenKey, now time.Time) (token, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	answer, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err) // the text users know from FailedMount events
	}
	expires := answer.Status.ExpirationTimestamp.Time
	return token{value: answer.Status.Token, refresh: refreshTime(now, expires), expires: expires}, nil
}

// refreshTime is when 80 % of a token's life is over, or a day, whichever comes first.
func refreshTime(now, expires time.Time) time.Time {
	return now.Add(min(expires.Sub(now)*8/10, maxTokenAge))
}

func (t *tokens) nextRefresh(uid types.UID) (next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, token := range t.byPod[uid] {
		if next.IsZero() || token.refresh.Before(next) {
			next = token.refresh
		}
	}
	return next
}

func (t *tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byPod, uid)
}
