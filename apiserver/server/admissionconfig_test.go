package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/apiserver/server"
)

const admissionConfig = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, warn: restricted}
    exemptions: {namespaces: [exempt], usernames: [builder]}
- name: EventRateLimit
  path: events.yaml
- name: PodNodeSelector
  configuration:
    podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "pool=general"}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources: [{resource: persistentvolumeclaims, matchContains: [requests.storage]}]
- name: ValidatingAdmissionPolicy
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ValidatingAdmissionPolicyConfiguration
    staticManifestsDir: %s
`

const staticPolicy = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: frozen.static.k8s.io}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
    - {apiGroups: [admissionregistration.k8s.io], apiVersions: [v1], operations: [CREATE], resources: [validatingadmissionpolicies]}
  validations: [{expression: "!object.metadata.name.startsWith('%s')", message: "names with that prefix are frozen"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: frozen.static.k8s.io}
spec: {policyName: frozen.static.k8s.io, validationActions: [Deny]}
`

// configured runs a server whose plugins are configured by a file. It returns the directory of the policies from files too.
func configured(t *testing.T) (*testServer, string) {
	dir := t.TempDir()
	manifests := filepath.Join(dir, "policies")
	if err := os.Mkdir(manifests, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(manifests, "frozen.yaml"), fmt.Sprintf(staticPolicy, "old"))
	write(t, filepath.Join(dir, "admission.yaml"), fmt.Sprintf(admissionConfig, manifests))
	write(t, filepath.Join(dir, "events.yaml"), "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: Namespace, qps: 1, burst: 2}]\n")
	return newServer(t, dir, func(o *server.Options) {
		o.Admission.ConfigFile = filepath.Join(dir, "admission.yaml")
		o.Admission.EnablePlugins = []string{"EventRateLimit", "PodNodeSelector", "NamespaceAutoProvision", "OwnerReferencesPermissionEnforcement"}
		o.Tolerations.NotReady = 17
	}), manifests
}

func TestAdmissionConfiguration(t *testing.T) {
	s, manifests := configured(t)
	for name, test := range map[string]func(*testing.T){
		"PodSecurity":        s.testPodSecurityDefaults,
		"EventRateLimit":     s.testEventRate,
		"provision and pods": s.testProvisionAndPods,
		"quota":              s.testLimitedResources,
		"owners":             s.testOwners,
		"policies":           func(t *testing.T) { s.testPolicyFiles(t, manifests) },
	} {
		t.Run(name, test)
	}
}

// account makes what pods of a namespace need.
func (s *testServer) account(t *testing.T, namespace string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	must(s.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), sa, metav1.CreateOptions{}))(t)
}

func (s *testServer) testPodSecurityDefaults(t *testing.T) {
	privileged := pod("p")
	privileged.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	for _, c := range []struct {
		namespace string
		as        string
		allowed   bool
	}{{"checked", "someone", false}, {"exempt", "someone", true}, {"exemptuser", "builder", true}} {
		s.account(t, c.namespace) // provisions the namespace
		_, err := s.impersonate(t, c.as, "system:masters").CoreV1().Pods(c.namespace).Create(t.Context(), privileged, metav1.CreateOptions{})
		if (err == nil) != c.allowed || (err != nil && !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": privileged`)) {
			t.Errorf("%s in %s: %v", c.as, c.namespace, err)
		}
	}
}

func (s *testServer) testEventRate(t *testing.T) {
	send := func(namespace string) error {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{GenerateName: "e-"},
			InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: "p"}, Reason: "R",
		}
		return s.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("events").Body(event).MaxRetries(0).Do(t.Context()).Error()
	}
	var errs []error
	for range 4 {
		errs = append(errs, send("noisy"))
	}
	if errs[0] != nil || errs[1] != nil || !apierrors.IsTooManyRequests(errs[3]) {
		t.Errorf("events: %v", errs)
	}
	if err := send("quiet"); err != nil {
		t.Errorf("another namespace: %v", err)
	}
}

func (s *testServer) testProvisionAndPods(t *testing.T) {
	s.account(t, "provisioned")
	p := must(s.client.CoreV1().Pods("provisioned").Create(t.Context(), pod("p"), metav1.CreateOptions{}))(t)
	if p.Spec.NodeSelector["pool"] != "general" || *p.Spec.Tolerations[0].TolerationSeconds != 17 || *p.Spec.Tolerations[1].TolerationSeconds != 300 {
		t.Errorf("selector %v, tolerations %v", p.Spec.NodeSelector, p.Spec.Tolerations)
	}
}

// testLimitedResources asks for storage in a namespace without a quota for it.
func (s *testServer) testLimitedResources(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: quantities("storage", "1Gi")},
	}}
	_, err := s.client.CoreV1().PersistentVolumeClaims("unquotaed").Create(t.Context(), claim, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "insufficient quota to consume: requests.storage") {
		t.Errorf("a limited resource without a quota: %v", err)
	}
}

func (s *testServer) testOwners(t *testing.T) {
	maps := s.client.CoreV1().ConfigMaps("owned")
	owner := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))(t)
	s.grant(t, "owned", "editor", "update,create", "configmaps")
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "d", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID, BlockOwnerDeletion: new(true)},
	}}}
	editor := s.impersonate(t, "editor").CoreV1().ConfigMaps("owned")
	eventually(t, "blocking without the right is refused", func() bool {
		_, err := editor.Create(t.Context(), dependent, metav1.CreateOptions{})
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on")
	})
	s.grant(t, "owned", "editor", "update", "configmaps/finalizers")
	eventually(t, "the right counts", func() bool {
		_, err := editor.Create(t.Context(), dependent, metav1.CreateOptions{})
		return err == nil
	})
}

// testPolicyFiles needs a policy that is in force before anything is created, also over policies of the API, and follows the file.
func (s *testServer) testPolicyFiles(t *testing.T, manifests string) {
	create := func(name string) error {
		_, err := s.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	if err := create("old-1"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "names with that prefix are frozen") {
		t.Errorf("the policy of a file: %v", err)
	}
	if err := create("new-1"); err != nil {
		t.Error(err)
	}
	policy := policyOf("old-policy", "true")
	if _, err := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the policy of a file does not guard policies: %v", err)
	}
	policy.Name = "x.static.k8s.io"
	if _, err := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a name that is kept for files: %v", err)
	}
	write(t, filepath.Join(manifests, "frozen.yaml"), fmt.Sprintf(staticPolicy, "new"))
	eventually(t, "the changed file counts", func() bool { return create("new-1") != nil && create("old-1") == nil })
	write(t, filepath.Join(manifests, "frozen.yaml"), strings.Replace(fmt.Sprintf(staticPolicy, "old"), "object.metadata", "nothing.at.all", 1))
	if err := create("new-1"); err == nil {
		t.Error("a broken file put the policy out of force")
	}
}
