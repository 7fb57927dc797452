package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// gadgets is a kind with everything that a definition can have. GROUP is the test's own.
const gadgets = `
metadata: {name: gadgets.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, shortNames: [gd], categories: [toys]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns: [{name: Color, type: string, jsonPath: .spec.color}]
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.min <= self.max", message: "min must not be above max"}
            properties:
              color: {type: string, default: red, enum: [red, green, RETRO]}
              replicas: {type: integer, default: 1, maximum: 10}
              min: {type: integer, default: 0}
              max: {type: integer, default: 5, x-kubernetes-validations: [{rule: "self >= oldSelf", message: "max may only grow"}]}
              once: {type: string, maxLength: 20, x-kubernetes-validations: [{rule: "!oldSelf.hasValue() || self == oldSelf.value()", optionalOldSelf: true, message: once may be set once}]}
              open: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, properties: {replicas: {type: integer}, selector: {type: string}}}
  - name: v2
    served: true
    storage: false
    schema: *schema
`

// extensions returns the clients of definitions and of their objects.
func (s *testServer) extensions(t *testing.T) (apiextensionsclient.Interface, dynamic.Interface) {
	t.Helper()
	return must(apiextensionsclient.NewForConfig(s.loopback))(t), must(dynamic.NewForConfig(s.loopback))(t)
}

// define makes a definition of a group of the test's own, waits until its kind is served and removes it when the test ends.
func (s *testServer) define(t *testing.T, text string, change func(*apiextensionsv1.CustomResourceDefinition)) (*apiextensionsv1.CustomResourceDefinition, string) {
	t.Helper()
	definitions, _ := s.extensions(t)
	group := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())) + ".example.com"
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "GROUP", group)), crd); err != nil {
		t.Fatal(err)
	}
	crd.Spec.Versions[1].Schema.OpenAPIV3Schema.Description = "differs from v1" // of equal schemas one is made, which other rules hold for
	if change != nil {
		change(crd)
	}
	client := definitions.ApiextensionsV1().CustomResourceDefinitions()
	crd = must(client.Create(t.Context(), crd, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { _ = client.Delete(context.Background(), crd.Name, metav1.DeleteOptions{}) })
	eventually(t, "the kind is served", func() bool {
		list, err := s.client.Discovery().ServerResourcesForGroupVersion(group + "/" + crd.Spec.Versions[0].Name)
		return err == nil && len(list.APIResources) > 0
	})
	return crd, group
}

func gadget(group, version, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/" + version, "kind": "Gadget", "metadata": map[string]any{"name": name}, "spec": spec}}
}

func TestCustomResourceRules(t *testing.T) {
	ns := namespace(t)
	_, group := shared.define(t, gadgets, nil)
	_, objects := shared.extensions(t)
	client := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}).Namespace(ns)
	create := func(spec map[string]any) (*unstructured.Unstructured, error) {
		object := gadget(group, "v1", "", spec)
		object.SetGenerateName("g-")
		return client.Create(t.Context(), object, metav1.CreateOptions{})
	}
	g := must(create(map[string]any{"dropped": "x", "open": map[string]any{"kept": "y"}, "once": "a"}))(t)
	want := map[string]any{"color": "red", "replicas": int64(1), "min": int64(0), "max": int64(5), "once": "a", "open": map[string]any{"kept": "y"}}
	if !equalJSON(t, g.Object["spec"], want) {
		t.Errorf("defaulted and pruned to %v", g.Object["spec"])
	}
	for name, c := range map[string]struct {
		patch string
		want  string
	}{
		"rule of two fields":      {`{"spec":{"min":9}}`, "min must not be above max"},
		"transition":              {`{"spec":{"max":4}}`, "max may only grow"},
		"transition that is kept": {`{"spec":{"max":6}}`, ""},
		"optional old value":      {`{"spec":{"once":"b"}}`, "once may be set once"},
		"enumeration":             {`{"spec":{"color":"blue"}}`, `Unsupported value: "blue"`},
		"maximum":                 {`{"spec":{"replicas":11}}`, "should be less than or equal to 10"},
		"type":                    {`{"spec":{"replicas":"many"}}`, "must be of type integer"},
	} {
		_, err := client.Patch(t.Context(), g.GetName(), types.MergePatchType, []byte(c.patch), metav1.PatchOptions{})
		if (err == nil) != (c.want == "") || (err != nil && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want))) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	must(create(map[string]any{"color": "green"}))(t)
	list := must(client.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=green"}))(t)
	if len(list.Items) != 1 {
		t.Errorf("%d green gadgets", len(list.Items))
	}
	_, table := shared.raw(t, "GET", "/apis/"+group+"/v1/namespaces/"+ns+"/gadgets", "", "application/json;as=Table;v=v1;g=meta.k8s.io", "")
	if !strings.Contains(table, `"name":"Color"`) || !strings.Contains(table, `"green"`) {
		t.Errorf("table: %s", table)
	}
	if _, err := client.Patch(t.Context(), g.GetName(), types.MergePatchType, []byte(`{"spec":{"replicas":3},"status":{"replicas":2,"selector":"a=b"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	g = must(client.Patch(t.Context(), g.GetName(), types.MergePatchType, []byte(`{"spec":{"replicas":9},"status":{"replicas":2,"selector":"a=b"}}`), metav1.PatchOptions{}, "status"))(t)
	if replicas, _, _ := unstructured.NestedInt64(g.Object, "spec", "replicas"); replicas != 3 {
		t.Errorf("a status update set replicas to %d", replicas)
	}
	scale := must(client.Get(t.Context(), g.GetName(), metav1.GetOptions{}, "scale"))(t)
	if !equalJSON(t, scale.Object["status"], map[string]any{"replicas": int64(2), "selector": "a=b"}) {
		t.Errorf("scale: %v", scale.Object)
	}
	must(client.Patch(t.Context(), g.GetName(), types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}, "scale"))(t)
}

// TestCustomResourceRatcheting narrows a schema: what does not meet it any more may stay as long as nobody touches it.
func TestCustomResourceRatcheting(t *testing.T) {
	ns := namespace(t)
	crd, group := shared.define(t, gadgets, nil)
	definitions, objects := shared.extensions(t)
	client := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}).Namespace(ns)
	g := must(client.Create(t.Context(), gadget(group, "v1", "g", map[string]any{"color": "RETRO"}), metav1.CreateOptions{}))(t)
	narrow := []byte(`[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color/enum","value":["red","green"]}]`)
	must(definitions.ApiextensionsV1().CustomResourceDefinitions().Patch(t.Context(), crd.Name, types.JSONPatchType, narrow, metav1.PatchOptions{}))(t)
	eventually(t, "the narrower schema counts", func() bool {
		_, err := client.Create(t.Context(), gadget(group, "v1", "h", map[string]any{"color": "RETRO"}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsInvalid(err)
	})
	patch := func(body string) error {
		_, err := client.Patch(t.Context(), g.GetName(), types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	if err := patch(`{"spec":{"replicas":2}}`); err != nil {
		t.Errorf("a change elsewhere: %v", err)
	}
	if err := patch(`{"spec":{"color":"blue"}}`); !apierrors.IsInvalid(err) {
		t.Errorf("a change to another bad value: %v", err)
	}
}

func TestConversionWebhook(t *testing.T) {
	for _, by := range []string{"url", "service"} {
		t.Run(by, func(t *testing.T) {
			ns := namespace(t)
			b := shared.newBackend(t, ns, http.HandlerFunc(renameColor))
			_, group := shared.define(t, gadgets, func(crd *apiextensionsv1.CustomResourceDefinition) {
				hook := &apiextensionsv1.WebhookConversion{ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{CABundle: b.authority, URL: b.byURL("/").URL}}
				if by == "service" {
					hook.ClientConfig.URL, hook.ClientConfig.Service = nil, &apiextensionsv1.ServiceReference{Namespace: ns, Name: "backend", Port: &b.port}
				}
				crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: hook}
				crd.Spec.Versions[1].Schema = crd.Spec.Versions[1].Schema.DeepCopy()
				spec := crd.Spec.Versions[1].Schema.OpenAPIV3Schema.Properties["spec"]
				spec.Properties["colour"] = spec.Properties["color"]
				delete(spec.Properties, "color")
			})
			_, objects := shared.extensions(t)
			in := func(version string) dynamic.ResourceInterface {
				return objects.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: "gadgets"}).Namespace(ns)
			}
			var err error
			eventually(t, "the service is known", func() bool {
				_, err = in("v2").Create(t.Context(), gadget(group, "v2", "g", map[string]any{"colour": "green"}), metav1.CreateOptions{})
				return err == nil || apierrors.IsAlreadyExists(err)
			})
			for version, field := range map[string]string{"v1": "color", "v2": "colour"} {
				g := must(in(version).Get(t.Context(), "g", metav1.GetOptions{}))(t)
				if value, _, _ := unstructured.NestedString(g.Object, "spec", field); value != "green" {
					t.Errorf("%s: %v", version, g.Object["spec"])
				}
				list := must(in(version).List(t.Context(), metav1.ListOptions{}))(t)
				if len(list.Items) != 1 || list.Items[0].GetAPIVersion() != group+"/"+version {
					t.Errorf("list of %s: %v", version, list.Items)
				}
			}
		})
	}
}

// renameColor converts gadgets: v2 has colour for color.
func renameColor(w http.ResponseWriter, r *http.Request) {
	var sent apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := &apiextensionsv1.ConversionResponse{UID: sent.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range sent.Request.Objects {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from, to := "color", "colour"
		if strings.HasSuffix(sent.Request.DesiredAPIVersion, "/v1") {
			from, to = to, from
		}
		if value, ok, _ := unstructured.NestedString(object.Object, "spec", from); ok {
			unstructured.RemoveNestedField(object.Object, "spec", from)
			_ = unstructured.SetNestedField(object.Object, value, "spec", to)
		}
		object.SetAPIVersion(sent.Request.DesiredAPIVersion)
		converted, _ := object.MarshalJSON()
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Raw: converted})
	}
	sent.Request, sent.Response = nil, response
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(sent)
}

// TestDefinitionsComeAndGo looks at what is published of a kind, and at what its deletion takes with it.
func TestDefinitionsComeAndGo(t *testing.T) {
	ns := namespace(t)
	crd, group := shared.define(t, gadgets, nil)
	definitions, objects := shared.extensions(t)
	resources := must(shared.client.Discovery().ServerResourcesForGroupVersion(group + "/v1"))(t).APIResources
	at := slices.IndexFunc(resources, func(r metav1.APIResource) bool { return r.Name == "gadgets" })
	if at < 0 || !slices.Equal(resources[at].ShortNames, []string{"gd"}) || !slices.Equal(resources[at].Categories, []string{"toys"}) {
		t.Errorf("discovery: %+v", resources)
	}
	model := "com.example." + strings.TrimSuffix(group, ".example.com") + ".v1.Gadget"
	published := func() bool {
		_, v2 := shared.raw(t, "GET", "/openapi/v2", "", "application/json", "")
		code, v3 := shared.raw(t, "GET", "/openapi/v3/apis/"+group+"/v1", "", "application/json", "")
		return strings.Contains(v2, `"`+model+`"`) && code == http.StatusOK && strings.Contains(v3, `"`+model+`"`)
	}
	eventually(t, "OpenAPI has the kind", published)

	rival := crd.DeepCopy()
	rival.ObjectMeta, rival.Status = metav1.ObjectMeta{Name: "gizmos." + group}, apiextensionsv1.CustomResourceDefinitionStatus{}
	rival.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "gizmos", Singular: "gizmo", Kind: "Gizmo", ListKind: "GizmoList", ShortNames: []string{"gd"}}
	client := definitions.ApiextensionsV1().CustomResourceDefinitions()
	must(client.Create(t.Context(), rival, metav1.CreateOptions{}))(t)
	eventually(t, "the short name is refused", func() bool {
		conditions := must(client.Get(t.Context(), rival.Name, metav1.GetOptions{}))(t).Status.Conditions
		return slices.ContainsFunc(conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
			return c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse && c.Reason == "ShortNamesConflict"
		})
	})
	if err := client.Delete(t.Context(), rival.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}

	gadgetsOf := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}).Namespace(ns)
	held := gadget(group, "v1", "held", map[string]any{})
	held.SetFinalizers([]string{"example.com/hold"})
	must(gadgetsOf.Create(t.Context(), held, metav1.CreateOptions{}))(t)
	must(gadgetsOf.Create(t.Context(), gadget(group, "v1", "free", map[string]any{}), metav1.CreateOptions{}))(t)
	if err := client.Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is free is gone", func() bool {
		_, err := gadgetsOf.Get(t.Context(), "free", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	found := must(client.Get(t.Context(), crd.Name, metav1.GetOptions{}))(t)
	if !slices.Contains(found.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		t.Errorf("the definition waits for nothing: %v", found.Finalizers)
	}
	if _, err := gadgetsOf.Create(t.Context(), gadget(group, "v1", "late", map[string]any{}), metav1.CreateOptions{}); err == nil {
		t.Error("an object of a kind on its way out was made")
	}
	must(gadgetsOf.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
	eventually(t, "the definition and what was published of it are gone", func() bool {
		_, err := client.Get(t.Context(), crd.Name, metav1.GetOptions{})
		code, _ := shared.raw(t, "GET", "/apis/"+group, "", "application/json", "")
		return apierrors.IsNotFound(err) && code == http.StatusNotFound && !published()
	})
}

// TestStorageVersions moves the objects of a kind to another version.
func TestStorageVersions(t *testing.T) {
	ns := namespace(t)
	crd, group := shared.define(t, gadgets, nil)
	definitions, objects := shared.extensions(t)
	client := definitions.ApiextensionsV1().CustomResourceDefinitions()
	v1 := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}).Namespace(ns)
	must(v1.Create(t.Context(), gadget(group, "v1", "g", map[string]any{}), metav1.CreateOptions{}))(t)
	turn := []byte(`[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`)
	must(client.Patch(t.Context(), crd.Name, types.JSONPatchType, turn, metav1.PatchOptions{}))(t)
	stored := func() []string {
		return must(client.Get(t.Context(), crd.Name, metav1.GetOptions{}))(t).Status.StoredVersions
	}
	eventually(t, "both versions are stored", func() bool { return slices.Equal(stored(), []string{"v1", "v2"}) })
	drop := []byte(`[{"op":"remove","path":"/spec/versions/0"}]`)
	if _, err := client.Patch(t.Context(), crd.Name, types.JSONPatchType, drop, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a version that objects are stored in was dropped: %v", err)
	}
	before := must(v1.Get(t.Context(), "g", metav1.GetOptions{}))(t).GetResourceVersion()
	eventually(t, "a patch that changes nothing stores it anew", func() bool { // as soon as the server works by the changed definition
		return must(v1.Patch(t.Context(), "g", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}))(t).GetResourceVersion() != before
	})
	must(client.Patch(t.Context(), crd.Name, types.MergePatchType, []byte(`{"status":{"storedVersions":["v2"]}}`), metav1.PatchOptions{}, "status"))(t)
	must(client.Patch(t.Context(), crd.Name, types.JSONPatchType, drop, metav1.PatchOptions{}))(t)
	v2 := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v2", Resource: "gadgets"}).Namespace(ns)
	must(v2.Get(t.Context(), "g", metav1.GetOptions{}))(t)
	eventually(t, "the old version is gone", func() bool {
		_, err := v1.Get(t.Context(), "g", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestCustomResourceQuota counts the objects of a kind that no part of the server knows.
func TestCustomResourceQuota(t *testing.T) {
	ns := namespace(t)
	_, group := shared.define(t, gadgets, nil)
	_, objects := shared.extensions(t)
	quotas, name := shared.client.CoreV1().ResourceQuotas(ns), "count/gadgets."+group
	quota := must(quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: quantities(name, "0")}}, metav1.CreateOptions{}))(t)
	quota.Status = corev1.ResourceQuotaStatus{Hard: quantities(name, "0"), Used: quantities(name, "0")}
	must(quotas.UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}))(t)
	client := objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}).Namespace(ns)
	eventually(t, "the quota counts", func() bool {
		_, err := client.Create(t.Context(), gadget(group, "v1", "g", map[string]any{}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: q, requested: "+name+"=1")
	})
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	return string(must(json.Marshal(a))(t)) == string(must(json.Marshal(b))(t))
}
