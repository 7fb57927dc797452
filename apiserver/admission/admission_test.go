package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// request is what a test sends through a plugin.
type request struct {
	resource    string // group/resource, the core group without slash
	subresource string
	operation   admission.Operation
	name        string
	obj, old    runtime.Object
	user        user.Info
}

func (r request) attributes() admission.Attributes {
	gr := schema.ParseGroupResource(r.resource)
	if r.operation == "" {
		r.operation = admission.Create
	}
	if r.user == nil {
		r.user = &user.DefaultInfo{Name: "someone"}
	}
	return admission.NewAttributesRecord(r.obj, r.old, schema.GroupVersionKind{}, "ns", r.name, gr.WithVersion("v1"),
		r.subresource, r.operation, nil, false, r.user)
}

func node1() user.Info {
	return &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
}

// plant builds a plugin's hooks over objects that stand both in the caches and in the API.
func plant(t *testing.T, build func(dependencies) hooks, objects ...runtime.Object) hooks {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	d := dependencies{client: client, factory: factory, authorizer: authorizer.AuthorizerFunc(
		func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetUser().GetName() == "signer-admin" && a.GetName() == "example.com/*" {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		})}
	h := build(d)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); factory.Shutdown() })
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), append(h.synced, func() bool { return true })...) {
		t.Fatal("caches did not fill")
	}
	return h
}

func (h hooks) both(ctx context.Context, a admission.Attributes) error {
	for _, hook := range []func(context.Context, admission.Attributes) error{h.admit, h.validate} {
		if hook == nil {
			continue
		}
		if err := hook(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func podWith(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if change != nil {
		change(pod)
	}
	return pod
}

func TestChainIsComplete(t *testing.T) {
	o := NewOptions()
	if errs := o.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	if o.RecommendedPluginOrder[0] != "NamespaceLifecycle" || o.RecommendedPluginOrder[len(o.RecommendedPluginOrder)-1] != "ResourceQuota" {
		t.Errorf("unexpected ends of the chain: %v", o.RecommendedPluginOrder)
	}
	for _, name := range []string{"AlwaysPullImages", "ExtendedResourceToleration", "DenyServiceExternalIPs"} {
		if !o.DefaultOffPlugins.Has(name) {
			t.Errorf("%s runs without having been asked for", name)
		}
	}
}
