package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/compatibility"
	"sigs.k8s.io/yaml"
)

// dependencies are what a plugin of ours is built from.
type dependencies struct {
	client     kubernetes.Interface
	factory    informers.SharedInformerFactory
	authorizer authorizer.UnconditionalAuthorizer
	mapper     meta.RESTMapper
	version    *version.Version // of Kubernetes that is served
}

// hooks is what a plugin does. A nil hook does nothing.
type hooks struct {
	admit    func(ctx context.Context, a admission.Attributes) error // may change the object
	validate func(ctx context.Context, a admission.Attributes) error
	synced   []cache.InformerSynced // what must have been read before the hooks can judge
}

// phases says which hooks a plugin has, since the library asks for it before the hooks are built.
type phases int

const (
	mutates phases = 1 << iota
	validates
)

// own is a line of the chain that is written here: for which operations on which resources (none named: on all), and how its hooks
// are built.
func own(name string, has phases, operations []admission.Operation, build func(dependencies) hooks, resources ...schema.GroupResource) plugin {
	return configured(name, has, operations, func(io.Reader) (func(dependencies) hooks, error) { return build, nil }, resources...)
}

// configured is an own line that reads its part of the file of --admission-control-config-file; the reader is nil without one.
func configured(name string, has phases, operations []admission.Operation, load func(io.Reader) (func(dependencies) hooks, error), resources ...schema.GroupResource) plugin {
	return plugin{name: name, register: func(plugins *admission.Plugins) {
		plugins.Register(name, func(config io.Reader) (admission.Interface, error) {
			build, err := load(config)
			if err != nil {
				return nil, err
			}
			b := &builtin{Handler: admission.NewHandler(operations...), build: build, resources: resources}
			switch has {
			case mutates:
				return mutating{b}, nil
			case validates:
				return validating{b}, nil
			}
			return both{b, mutating{b}, validating{b}}, nil
		})
	}}
}

// builtin turns hooks into a plugin of the library.
type builtin struct {
	*admission.Handler
	dependencies
	hooks
	build     func(dependencies) hooks
	resources []schema.GroupResource
}

// mutating, validating and both are builtins with the methods of their phases.
type (
	mutating   struct{ *builtin }
	validating struct{ *builtin }
	both       struct {
		*builtin
		mutator   mutating
		validator validating
	}
)

var (
	_ admission.MutationInterface                  = both{}
	_ admission.ValidationInterface                = both{}
	_ initializer.WantsExternalKubeClientSet       = &builtin{}
	_ initializer.WantsExternalKubeInformerFactory = &builtin{}
	_ initializer.WantsUnconditionalAuthorizer     = &builtin{}
	_ initializer.WantsRESTMapper                  = &builtin{}
	_ initializer.WantsEffectiveVersion            = &builtin{}
)

func (b *builtin) SetExternalKubeClientSet(client kubernetes.Interface) { b.client = client }

func (b *builtin) SetExternalKubeInformerFactory(factory informers.SharedInformerFactory) {
	b.factory = factory
}

func (b *builtin) SetUnconditionalAuthorizer(auth authorizer.UnconditionalAuthorizer) {
	b.authorizer = auth
}

func (b *builtin) SetRESTMapper(mapper meta.RESTMapper) { b.mapper = mapper }

func (b *builtin) InspectEffectiveVersion(v compatibility.EffectiveVersion) {
	b.version = v.BinaryVersion()
}

// ValidateInitialization builds the hooks: all dependencies are there, and the informers have not started yet.
func (b *builtin) ValidateInitialization() error {
	if b.client == nil || b.factory == nil || b.authorizer == nil || b.mapper == nil || b.version == nil {
		return errors.New("missing client, informers, authorizer, REST mapper or version")
	}
	b.hooks = b.build(b.dependencies)
	synced := b.synced
	b.SetReadyFunc(func() bool {
		return !slices.ContainsFunc(synced, func(has cache.InformerSynced) bool { return !has() })
	})
	return nil
}

// Admit runs the hook that may change the object.
func (m mutating) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	return m.run(ctx, a, m.admit)
}

// Validate runs the hook that only judges.
func (v validating) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	return v.run(ctx, a, v.validate)
}

func (b both) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	return b.mutator.Admit(ctx, a, o)
}

func (b both) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	return b.validator.Validate(ctx, a, o)
}

func (b *builtin) run(ctx context.Context, a admission.Attributes, hook func(context.Context, admission.Attributes) error) error {
	if hook == nil || (len(b.resources) > 0 && !slices.Contains(b.resources, a.GetResource().GroupResource())) {
		return nil
	}
	if !b.WaitForReady() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	return hook(ctx, a)
}

// mainResource tells whether a request is about the object itself.
func mainResource(a admission.Attributes) bool { return a.GetSubresource() == "" }

// objectOf returns the new object as its type. Admission sees only what the registry has decoded, so a mismatch is an error of ours.
func objectOf[T any](a admission.Attributes) (T, error) {
	obj, ok := a.GetObject().(T)
	if !ok {
		return obj, admission.NewForbidden(a, errors.New("unexpected object type"))
	}
	return obj, nil
}

func oldOf[T any](a admission.Attributes) (T, error) {
	obj, ok := a.GetOldObject().(T)
	if !ok {
		return obj, admission.NewForbidden(a, errors.New("unexpected type of the old object"))
	}
	return obj, nil
}

// decodeConfig reads a plugin's configuration of the given kind. An unknown field is an error: misspelt, it would leave a rule out of
// force without a word.
func decodeConfig(config io.Reader, apiVersion, kind string, into any) error {
	data, err := io.ReadAll(config)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var of metav1.TypeMeta
	if err := yaml.Unmarshal(data, &of); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	if of.APIVersion != apiVersion || of.Kind != kind {
		return fmt.Errorf("no kind %q is registered for version %q: want %s of %s", of.Kind, of.APIVersion, kind, apiVersion)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		return fmt.Errorf("parse %s: %w", kind, err)
	}
	return nil
}
