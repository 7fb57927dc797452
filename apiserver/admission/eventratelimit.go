package admission

import (
	"context"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
)

// defaultBuckets is how many buckets of one limit are remembered if the configuration does not say.
const defaultBuckets = 4096

// eventLimits is eventratelimit.admission.k8s.io/v1alpha1 Configuration.
type eventLimits struct {
	metav1.TypeMeta `json:",inline"`
	Limits          []eventLimit `json:"limits"`
}

// eventLimit lets Burst events through at once, and QPS more in each second, for each bucket of its type.
type eventLimit struct {
	Type      string `json:"type"`
	QPS       int32  `json:"qps"`
	Burst     int32  `json:"burst"`
	CacheSize int32  `json:"cacheSize,omitempty"` // buckets that are remembered; not for Server, which has one
}

// eventBuckets says, for every type of limit, to which bucket an event belongs.
var eventBuckets = map[string]func(admission.Attributes) string{
	"Server":    func(admission.Attributes) string { return "" },
	"Namespace": func(a admission.Attributes) string { return a.GetNamespace() },
	"User": func(a admission.Attributes) string {
		if who := a.GetUserInfo(); who != nil {
			return who.GetName()
		}
		return ""
	},
	"SourceAndObject": func(a admission.Attributes) string {
		event, ok := a.GetObject().(*corev1.Event)
		if !ok {
			return ""
		}
		about := event.InvolvedObject
		return strings.Join([]string{
			event.Source.Component, event.Source.Host, about.Kind, about.Namespace, about.Name, string(about.UID), about.APIVersion,
		}, "")
	},
}

func loadEventRateLimit(config io.Reader) (func(dependencies) hooks, error) {
	var limits eventLimits
	if config != nil {
		if err := decodeConfig(config, "eventratelimit.admission.k8s.io/v1alpha1", "Configuration", &limits); err != nil {
			return nil, err
		}
	}
	if errs := limits.validate(); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return func(dependencies) hooks { return eventRateLimit(limits, clock.RealClock{}) }, nil
}

func (l eventLimits) validate() field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("limits")
	if len(l.Limits) == 0 {
		errs = append(errs, field.Invalid(path, l.Limits, "must not be empty"))
	}
	for i, limit := range l.Limits {
		at := path.Index(i)
		if eventBuckets[limit.Type] == nil {
			errs = append(errs, field.NotSupported(at.Child("type"), limit.Type, []string{"Namespace", "Server", "SourceAndObject", "User"}))
		}
		if limit.Burst <= 0 {
			errs = append(errs, field.Invalid(at.Child("burst"), limit.Burst, "must be positive"))
		}
		if limit.QPS <= 0 {
			errs = append(errs, field.Invalid(at.Child("qps"), limit.QPS, "must be positive"))
		}
		if limit.Type != "Server" && limit.CacheSize < 0 {
			errs = append(errs, field.Invalid(at.Child("cacheSize"), limit.CacheSize, "must not be negative"))
		}
	}
	return errs
}

// eventRateLimit refuses events of core/v1 beyond the limits. Every limit counts an event, also one that another limit refuses.
func eventRateLimit(limits eventLimits, now flowcontrol.Clock) hooks {
	var checks []func(admission.Attributes) error
	for _, limit := range limits.Limits {
		checks = append(checks, limit.check(now))
	}
	return hooks{validate: func(_ context.Context, a admission.Attributes) error {
		if a.IsDryRun() {
			return nil
		}
		var errs []error
		for _, check := range checks {
			errs = append(errs, check(a))
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return apierrors.NewTooManyRequestsError(err.Error())
		}
		return nil
	}}
}

func (l eventLimit) check(now flowcontrol.Clock) func(admission.Attributes) error {
	size := int(l.CacheSize)
	if size == 0 {
		size = defaultBuckets
	}
	buckets, bucketOf := lru.New(size), eventBuckets[l.Type]
	return func(a admission.Attributes) error {
		key := bucketOf(a)
		bucket, ok := buckets.Get(key)
		if !ok {
			bucket = flowcontrol.NewTokenBucketRateLimiterWithClock(float32(l.QPS), int(l.Burst), now)
			buckets.Add(key, bucket)
		}
		if !bucket.(flowcontrol.RateLimiter).TryAccept() {
			return fmt.Errorf("limit reached on type %v for key %v", l.Type, key)
		}
		return nil
	}
}
