package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurity "k8s.io/pod-security-admission/admission"
	podsecurityload "k8s.io/pod-security-admission/admission/api/load"
	podsecurityapi "k8s.io/pod-security-admission/api"
	podsecuritymetrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

const podSecurityName = "PodSecurity"

// podSecurityAnnotations is the domain under which the audit log finds the library's annotations.
const podSecurityAnnotations = "pod-security.kubernetes.io/"

// podSecurity lets the library judge pods, what makes pods, and the labels of namespaces that say how strictly.
type podSecurity struct {
	*admission.Handler
	library *podsecurity.Admission
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
}

var (
	_ admission.ValidationInterface                = &podSecurity{}
	_ initializer.WantsExternalKubeClientSet       = &podSecurity{}
	_ initializer.WantsExternalKubeInformerFactory = &podSecurity{}
)

// podSecurityMetrics are those of the process, however many servers run in it.
var podSecurityMetrics = sync.OnceValue(func() podsecuritymetrics.Recorder {
	recorder := podsecuritymetrics.NewPrometheusRecorder(podsecurityapi.GetAPIVersion())
	recorder.MustRegister(legacyregistry.MustRegister)
	return recorder
})

func registerPodSecurity(plugins *admission.Plugins) {
	plugins.Register(podSecurityName, func(config io.Reader) (admission.Interface, error) {
		configuration, err := podsecurityload.LoadFromReader(config)
		if err != nil {
			return nil, fmt.Errorf("read PodSecurity configuration: %w", err)
		}
		evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
		if err != nil {
			return nil, fmt.Errorf("build pod security checks: %w", err)
		}
		return &podSecurity{
			Handler: admission.NewHandler(admission.Create, admission.Update),
			library: &podsecurity.Admission{
				Configuration: configuration, Evaluator: evaluator,
				Metrics:          podSecurityMetrics(),
				PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
			},
		}, nil
	})
}

func (p *podSecurity) SetExternalKubeClientSet(client kubernetes.Interface) { p.client = client }

func (p *podSecurity) SetExternalKubeInformerFactory(factory informers.SharedInformerFactory) {
	p.factory = factory
}

func (p *podSecurity) ValidateInitialization() error {
	if p.client == nil || p.factory == nil {
		return errors.New("missing client or informers")
	}
	namespaces := p.factory.Core().V1().Namespaces()
	p.SetReadyFunc(namespaces.Informer().HasSynced)
	p.library.NamespaceGetter = podsecurity.NamespaceGetterFromListerAndClient(namespaces.Lister(), p.client)
	p.library.PodLister = podsecurity.PodListerFromClient(p.client) // needs whole pods, and only when a namespace gets stricter
	if err := p.library.CompleteConfiguration(); err != nil {
		return fmt.Errorf("complete PodSecurity configuration: %w", err)
	}
	return p.library.ValidateConfiguration()
}

// Validate passes warnings and audit annotations on, and refuses what the library refuses.
func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != corev1.Resource("namespaces") && gr != corev1.Resource("pods") && !p.library.PodSpecExtractor.HasPodSpec(gr) {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	result := p.library.Validate(ctx, podSecurityAttributes{a})
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for key, value := range result.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podSecurityAnnotations+key, value)
	}
	if result.Allowed {
		return nil
	}
	err := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity")) //nolint:staticcheck // the API's wording
	refused, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return err
	}
	if result.Result != nil {
		if result.Result.Message != "" {
			refused.ErrStatus.Message = result.Result.Message
		}
		if result.Result.Reason != "" {
			refused.ErrStatus.Reason = result.Result.Reason
		}
		if result.Result.Code != 0 {
			refused.ErrStatus.Code = result.Result.Code
		}
		if result.Result.Details != nil {
			refused.ErrStatus.Details = result.Result.Details
		}
	}
	return refused
}

// podSecurityAttributes are our attributes in the library's form; our objects are of the types that it wants.
type podSecurityAttributes struct{ admission.Attributes }

func (a podSecurityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}

func (a podSecurityAttributes) GetObject() (runtime.Object, error) {
	return a.Attributes.GetObject(), nil
}

func (a podSecurityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}

func (a podSecurityAttributes) GetUserName() string {
	if who := a.GetUserInfo(); who != nil {
		return who.GetName()
	}
	return ""
}
