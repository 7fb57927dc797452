package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/internal/apiclient"
)

// policyOf judges config maps by one expression.
func policyOf(name, expression string) *admissionregistrationv1.ValidatingAdmissionPolicy {
	return &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{
				{RuleWithOperations: ruleFor("", "configmaps", admissionregistrationv1.Create, admissionregistrationv1.Update)},
			}},
			Validations: []admissionregistrationv1.Validation{{Expression: expression}},
		},
	}
}

func ruleFor(group, plural string, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: operations,
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{plural}},
	}
}

// grant gives a user verbs on a resource of a namespace.
func (s *testServer) grant(t *testing.T, namespace, user, verbs, plural string) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Verbs: strings.Split(verbs, ","), Resources: []string{plural}}}}
	role = must(s.client.RbacV1().Roles(namespace).Create(t.Context(), role, metav1.CreateOptions{}))(t)
	must(s.client.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{}))(t)
}

func quantities(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// policy puts a policy in force for the namespace, with the parameters and actions that change sets on its binding, and waits until
// it is.
func (s *testServer) policy(t *testing.T, namespace string, policy *admissionregistrationv1.ValidatingAdmissionPolicy, change func(*admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec)) {
	t.Helper()
	client := s.client.AdmissionregistrationV1()
	policy.Name = namespace + "-" + policy.Name
	// The last rule is how the test learns that the policy is in force.
	policy.Spec.Validations = append(policy.Spec.Validations, admissionregistrationv1.Validation{Expression: "object.metadata.name != 'canary'", Message: "in force"})
	must(client.ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}))(t)
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy.Name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}},
		},
	}
	if change != nil {
		change(&binding.Spec)
	}
	must(client.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = client.ValidatingAdmissionPolicyBindings().Delete(context.Background(), policy.Name, metav1.DeleteOptions{})
		_ = client.ValidatingAdmissionPolicies().Delete(context.Background(), policy.Name, metav1.DeleteOptions{})
	})
	deny := slices.Contains(binding.Spec.ValidationActions, admissionregistrationv1.Deny)
	eventually(t, "the policy is in force", func() bool {
		code, body, warnings := s.create(t, namespace, `{"metadata":{"name":"canary"}}`, "?dryRun=All")
		return code == http.StatusUnprocessableEntity && strings.Contains(body, "in force") || !deny && strings.Contains(warnings, "in force") ||
			code == http.StatusUnprocessableEntity && strings.Contains(body, "no params found")
	})
}

// create posts a config map and returns the code, the body and the warnings.
func (s *testServer) create(t *testing.T, namespace, body, query string) (int, string, string) {
	t.Helper()
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, s.loopback.Host+"/api/v1/namespaces/"+namespace+"/configmaps"+query, strings.NewReader(body)))(t)
	request.Header.Set("Content-Type", "application/json")
	response := must(must(apiclient.HTTPClient(s.loopback))(t).Do(request))(t) //nolint:bodyclose // it is, below
	defer response.Body.Close()
	return response.StatusCode, string(must(io.ReadAll(response.Body))(t)), strings.Join(response.Header.Values("Warning"), "\n")
}

func TestValidatingPolicy(t *testing.T) {
	ns := namespace(t)
	policy := policyOf("p", "!has(object.data) || int(object.data.n) <= variables.most")
	policy.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	policy.Spec.Variables = []admissionregistrationv1.Variable{{Name: "most", Expression: "int(params.data.most)"}}
	policy.Spec.Validations[0].MessageExpression = "'at most ' + string(variables.most) + ' in ' + namespaceObject.metadata.name"
	policy.Spec.Validations[0].Reason = new(metav1.StatusReasonForbidden)
	policy.Spec.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "not-skipped", Expression: "!has(object.metadata.labels) || !('skip' in object.metadata.labels)"}}
	params := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "params", Labels: map[string]string{"skip": "", "params": "yes"}}, Data: map[string]string{"most": "5"}}
	must(shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), params, metav1.CreateOptions{}))(t)
	shared.policy(t, ns, policy, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) {
		b.ParamRef = &admissionregistrationv1.ParamRef{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"params": "yes"}}, ParameterNotFoundAction: new(admissionregistrationv1.DenyAction),
		}
	})
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"within":           {`{"metadata":{"name":"a"},"data":{"n":"5"}}`, 201, ""},
		"beyond":           {`{"metadata":{"name":"b"},"data":{"n":"6"}}`, 403, "denied request: at most 5 in " + ns},
		"no number":        {`{"metadata":{"name":"c"},"data":{"n":"x"}}`, 422, "resulted in error"},
		"condition is off": {`{"metadata":{"name":"d","labels":{"skip":""}},"data":{"n":"6"}}`, 201, ""},
	} {
		code := 0
		body := ""
		eventually(t, name, func() bool { // the parameters may be seen later than the policy
			code, body, _ = shared.create(t, ns, c.body, "?dryRun=All")
			return !strings.Contains(body, "no params found")
		})
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if err := shared.client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "params", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no parameters: denied", func() bool {
		code, body, _ := shared.create(t, ns, `{"metadata":{"name":"a"},"data":{"n":"1"}}`, "?dryRun=All")
		return code == http.StatusUnprocessableEntity && strings.Contains(body, "no params found")
	})
}

func TestValidatingPolicyWarns(t *testing.T) {
	ns := namespace(t)
	policy := policyOf("w", "object.metadata.name != 'odd'")
	policy.Spec.Validations[0].Message = "an odd name"
	shared.policy(t, ns, policy, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) {
		b.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Warn, admissionregistrationv1.Audit}
	})
	if code, body, warnings := shared.create(t, ns, `{"metadata":{"name":"odd"}}`, ""); code != http.StatusCreated || !strings.Contains(warnings, "an odd name") {
		t.Errorf("%d %s, warnings %s", code, body, warnings)
	}
}

func TestMutatingPolicy(t *testing.T) {
	ns := namespace(t)
	shared.mutate(t, ns, ruleFor("", "configmaps", admissionregistrationv1.Create),
		applying(`Object{metadata: Object.metadata{labels: {"by": "policy"}}}`),
		admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{
			Expression: `[JSONPatch{op: "add", path: "/data", value: {"seen": object.metadata.labels["by"]}}]`,
		}})
	var body string
	eventually(t, "the policy is in force", func() bool {
		_, body, _ = shared.create(t, ns, `{"metadata":{"name":"a"}}`, "?dryRun=All")
		return strings.Contains(body, `"by":"policy"`)
	})
	if !strings.Contains(body, `"data":{"seen":"policy"}`) {
		t.Errorf("the second mutation did not see the first: %s", body)
	}
}

func applying(expression string) admissionregistrationv1.Mutation {
	return admissionregistrationv1.Mutation{
		PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: expression},
	}
}

// mutate makes a policy that changes what the rule names in the namespace, until the test ends.
func (s *testServer) mutate(t *testing.T, namespace string, rule admissionregistrationv1.RuleWithOperations, mutations ...admissionregistrationv1.Mutation) {
	t.Helper()
	client, name := s.client.AdmissionregistrationV1(), namespace+"-m"
	must(client.MutatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints:   &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: rule}}},
			ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy, Mutations: mutations,
		},
	}, metav1.CreateOptions{}))(t)
	must(client.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{
			PolicyName:     name,
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = client.MutatingAdmissionPolicyBindings().Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = client.MutatingAdmissionPolicies().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

// TestFirstMutatingPolicy makes the first policy of a server that nobody has asked for OpenAPI, while definitions come and go: no
// request that it matches may be refused, with built-in kinds and their subresources.
func TestFirstMutatingPolicy(t *testing.T) {
	s := newServer(t, t.TempDir(), nil)
	ctx, end := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	defer churn.Wait()
	defer end()
	definitions := must(apiextensionsclient.NewForConfig(s.loopback))(t).ApiextensionsV1().CustomResourceDefinitions()
	churn.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			group := fmt.Sprintf("g%d.example.com", i)
			crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gadgets." + group}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
				Group: group, Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "gadgets", Kind: "Gadget"},
				Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
					Name: "v1", Served: true, Storage: true,
					Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
				}},
			}}
			_, err := definitions.Create(ctx, crd, metav1.CreateOptions{})
			if err == nil {
				err = definitions.Delete(ctx, crd.Name, metav1.DeleteOptions{})
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	deployments := s.client.AppsV1().Deployments("default")
	s.mutate(t, "default", ruleFor("apps", "deployments", admissionregistrationv1.Create), applying(`Object{spec: Object.spec{replicas: 1337}}`))
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{GenerateName: "d-"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		},
	}}
	mutated := 0
	eventually(t, "deployments are mutated", func() bool {
		made := must(deployments.Create(t.Context(), deployment, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
		if *made.Spec.Replicas == 1337 {
			mutated++
		}
		return mutated == 100
	})
	must(s.client.CoreV1().ServiceAccounts("kube-public").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	must(s.client.CoreV1().Pods("kube-public").Create(t.Context(), pod("p"), metav1.CreateOptions{}))(t)
	s.mutate(t, "kube-public", ruleFor("", "pods/eviction", admissionregistrationv1.Create),
		applying(`Object{deleteOptions: Object.deleteOptions{preconditions: Object.deleteOptions.preconditions{uid: "of another pod"}}}`))
	eventually(t, "evictions are mutated", func() bool {
		err := s.client.CoreV1().Pods("kube-public").EvictV1(t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
		})
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		return err != nil
	})
}
