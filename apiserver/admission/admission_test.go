package admission

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
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
	d := dependencies{client: client, factory: factory, mapper: testMapper(), version: version.MustParse("1.37.0"), authorizer: authorizer.AuthorizerFunc(
		func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			switch who := a.GetUser().GetName(); {
			case who == "signer-admin" && a.GetName() == "example.com/*",
				who == "deleter" && a.GetVerb() == "delete",
				who == "finalizer" && (a.GetVerb() == "delete" || a.GetResource() == "replicasets" && a.GetSubresource() == "finalizers" && a.GetNamespace() == "ns"):
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

func testMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, meta.RESTScopeRoot)
	return mapper
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

func TestChain(t *testing.T) {
	o := NewOptions(&TolerationSeconds{})
	if errs := o.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	// Upstream's list and what it leaves off, but for NodeRestriction, which is on here as kubeadm has it.
	want := []string{
		"-AlwaysAdmit", "-NamespaceAutoProvision", "NamespaceLifecycle", "-NamespaceExists", "-LimitPodHardAntiAffinityTopology", "LimitRanger",
		"ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "-AlwaysPullImages", "-ImagePolicyWebhook", "PodSecurity", "-PodNodeSelector",
		"Priority", "DefaultTolerationSeconds", "-PodTolerationRestriction", "-EventRateLimit", "-ExtendedResourceToleration",
		"DefaultStorageClass", "StorageObjectInUseProtection", "PodGroupProtection", "-OwnerReferencesPermissionEnforcement",
		"PersistentVolumeClaimResize", "RuntimeClass", "CertificateApproval", "CertificateSigning", "ClusterTrustBundleAttest",
		"CertificateSubjectRestriction", "DefaultIngressClass", "-DenyServiceExternalIPs", "PodTopologyLabels", "NodeDeclaredFeatureValidator",
		"PodResizeValidator", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook",
		"ResourceQuota", "-AlwaysDeny",
	}
	var got []string
	for _, name := range o.RecommendedPluginOrder {
		if o.DefaultOffPlugins.Has(name) {
			name = "-" + name
		}
		got = append(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	o.EnablePlugins, o.DisablePlugins = []string{"Nothing", "PodSecurity"}, []string{"None", "PodSecurity"}
	var errs []string
	for _, err := range o.Validate() {
		errs = append(errs, err.Error())
	}
	if diff := cmp.Diff([]string{
		`enable-admission-plugins plugin "Nothing" is unknown`, `disable-admission-plugins plugin "None" is unknown`,
		"[PodSecurity] in enable-admission-plugins and disable-admission-plugins overlapped",
	}, errs); diff != "" {
		t.Error(diff)
	}
}

func TestOnly(t *testing.T) {
	o := NewOptions(&TolerationSeconds{})
	if err := Only(o, nil); err != nil || o.EnablePlugins != nil || o.DisablePlugins != nil {
		t.Errorf("no names: %v", err)
	}
	if err := Only(o, []string{"Nothing"}); err == nil || err.Error() != `admission-control plugin "Nothing" is unknown` {
		t.Errorf("an unknown plugin: %v", err)
	}
	if err := Only(o, []string{"AlwaysPullImages", "NamespaceLifecycle"}); err != nil {
		t.Fatal(err)
	}
	if errs := o.Validate(); len(errs) > 0 || len(o.EnablePlugins)+len(o.DisablePlugins) != len(o.RecommendedPluginOrder) || slices.Contains(o.DisablePlugins, "AlwaysPullImages") {
		t.Errorf("enabled %v, disabled %v: %v", o.EnablePlugins, o.DisablePlugins, errs)
	}
	if err := Only(o, []string{"PodSecurity"}); err == nil {
		t.Error("both ways at once are no error")
	}
}
