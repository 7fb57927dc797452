package server_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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
	ns, client := namespace(t), shared.client.AdmissionregistrationV1()
	name := ns + "-m"
	rules := []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: ruleFor("", "configmaps", admissionregistrationv1.Create)}}
	must(client.MutatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: rules}, ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{
				{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
					Expression: `Object{metadata: Object.metadata{labels: {"by": "policy"}}}`,
				}},
				{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{
					Expression: `[JSONPatch{op: "add", path: "/data", value: {"seen": object.metadata.labels["by"]}}]`,
				}},
			},
		},
	}, metav1.CreateOptions{}))(t)
	must(client.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{
			PolicyName:     name,
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}}},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = client.MutatingAdmissionPolicyBindings().Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = client.MutatingAdmissionPolicies().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	var body string
	eventually(t, "the policy is in force", func() bool {
		_, body, _ = shared.create(t, ns, `{"metadata":{"name":"a"}}`, "?dryRun=All")
		return strings.Contains(body, `"by":"policy"`)
	})
	if !strings.Contains(body, `"data":{"seen":"policy"}`) {
		t.Errorf("the second mutation did not see the first: %s", body)
	}
}
