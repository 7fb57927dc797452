package server_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
)

// namespace makes a namespace with the service account that pods need.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := shared.client.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestVersion(t *testing.T) {
	version := must(shared.client.Discovery().ServerVersion())(t)
	if version.Major != "1" || version.Minor != "37" || !strings.HasPrefix(version.GitVersion, "v1.37.") {
		t.Errorf("version is %+v", version)
	}
}

func TestWhatEveryClusterHas(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if _, err := shared.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	service := must(shared.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
	if service.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("kubernetes has address %s", service.Spec.ClusterIP)
	}
	slice := must(shared.client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
	if len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != "192.0.2.1" {
		t.Errorf("kubernetes has endpoints %+v", slice.Endpoints)
	}
	must(shared.client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
	must(shared.client.FlowcontrolV1().FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{}))(t)
	must(shared.client.RbacV1().ClusterRoles().Get(ctx, "cluster-admin", metav1.GetOptions{}))(t)
}

func TestSpecAndStatusAreApart(t *testing.T) {
	ctx, deployments := t.Context(), shared.client.AppsV1().Deployments(namespace(t))
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("").Spec}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, Template: template},
		Status:     appsv1.DeploymentStatus{Replicas: 7},
	}
	d = must(deployments.Create(ctx, d, metav1.CreateOptions{}))(t)
	if d.Generation != 1 || d.Status.Replicas != 0 || d.Spec.Replicas == nil {
		t.Fatalf("created with generation %d, status %+v", d.Generation, d.Status)
	}
	unchanged := must(deployments.Update(ctx, d, metav1.UpdateOptions{}))(t)
	if unchanged.ResourceVersion != d.ResourceVersion {
		t.Error("an update that changes nothing was written")
	}
	d.Status.Replicas, *d.Spec.Replicas = 3, 5
	d = must(deployments.UpdateStatus(ctx, d, metav1.UpdateOptions{}))(t)
	if d.Status.Replicas != 3 || *d.Spec.Replicas != 1 || d.Generation != 1 {
		t.Errorf("after the status update: replicas %d, status %d, generation %d", *d.Spec.Replicas, d.Status.Replicas, d.Generation)
	}
	s := must(deployments.UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: d.Namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}, metav1.UpdateOptions{}))(t)
	d = must(deployments.Get(ctx, "d", metav1.GetOptions{}))(t)
	if s.Spec.Replicas != 4 || *d.Spec.Replicas != 4 || d.Generation != 2 || d.Status.Replicas != 3 {
		t.Errorf("after scaling: scale %+v, replicas %d, generation %d", s.Spec, *d.Spec.Replicas, d.Generation)
	}
}

func TestServiceAddresses(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	services, addresses := shared.client.CoreV1().Services(ns), shared.client.NetworkingV1().IPAddresses()
	port := corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(80)}
	s := must(services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{port}}}, metav1.CreateOptions{}))(t)
	address := must(addresses.Get(ctx, s.Spec.ClusterIP, metav1.GetOptions{}))(t)
	if ref := address.Spec.ParentRef; ref.Namespace != ns || ref.Name != "a" || ref.Resource != "services" {
		t.Errorf("the address belongs to %+v", ref)
	}
	clash := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.ServiceSpec{ClusterIP: s.Spec.ClusterIP, Ports: []corev1.ServicePort{port}}}
	if _, err := services.Create(ctx, clash, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a taken address: %v", err)
	}
	clash.Spec.ClusterIP = "192.0.2.7"
	if _, err := services.Create(ctx, clash, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an address of no service network: %v", err)
	}

	s.Spec.Type = corev1.ServiceTypeNodePort
	s = must(services.Update(ctx, s, metav1.UpdateOptions{}))(t)
	nodePort := s.Spec.Ports[0].NodePort
	if nodePort < 30000 || nodePort > 32767 {
		t.Fatalf("node port %d", nodePort)
	}
	taken := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: nodePort}}}}
	if _, err := services.Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a taken node port: %v", err)
	}
	former := s.Spec.ClusterIP
	patch := []byte(`{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null}}`)
	s = must(services.Patch(ctx, "a", types.MergePatchType, patch, metav1.PatchOptions{}))(t)
	if s.Spec.ClusterIP != "" || s.Spec.Ports[0].NodePort != 0 {
		t.Errorf("an ExternalName service has %s and node port %d", s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
	}
	if _, err := addresses.Get(ctx, former, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the former address is still taken: %v", err)
	}
	must(services.Create(ctx, taken, metav1.CreateOptions{}))(t) // its node port is free again

	dry := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dry"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{port}}}
	dry = must(services.Create(ctx, dry, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
	if _, err := addresses.Get(ctx, dry.Spec.ClusterIP, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run took an address: %v", err)
	}
	live := must(services.Get(ctx, "c", metav1.GetOptions{}))(t)
	if err := services.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := addresses.Get(ctx, live.Spec.ClusterIP, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a deleted service keeps its address: %v", err)
	}
}

func TestBindingAndGracefulDeletion(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	pods := shared.client.CoreV1().Pods(ns)
	must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(ctx, bind, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, bind, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	list := must(pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}))(t)
	if len(list.Items) != 1 || list.Items[0].Kind != "" {
		t.Errorf("pods of the node: %+v", list.Items)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.unknown=n1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field: %v", err)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("deletion of a bound pod is not graceful: %v", p.DeletionTimestamp)
	}
	zero := int64(0)
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod is still there: %v", err)
	}
}

func TestEvictionKeepsTheBudget(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	pods, budgets := shared.client.CoreV1().Pods(ns), shared.client.PolicyV1().PodDisruptionBudgets(ns)
	one := intstr.FromInt32(1)
	budget := must(budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"set": "x"}}},
	}, metav1.CreateOptions{}))(t)
	for _, name := range []string{"p1", "p2"} {
		p := pod(name)
		p.Labels = map[string]string{"set": "x"}
		p = must(pods.Create(ctx, p, metav1.CreateOptions{}))(t)
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		must(pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}))(t)
	}
	evict := func(name string) error {
		body := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}}
		// Without the client's own patience with 429.
		return shared.client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name(name).SubResource("eviction").
			Body(body).MaxRetries(0).Do(ctx).Error()
	}
	if err := evict("p1"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("the budget has not been looked at yet: %v", err)
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	must(budgets.UpdateStatus(ctx, budget, metav1.UpdateOptions{}))(t)
	if err := evict("p1"); err != nil {
		t.Fatal(err)
	}
	err := evict("p2")
	var status apierrors.APIStatus
	if !apierrors.IsTooManyRequests(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 {
		t.Errorf("beyond the budget: %v", err)
	}
	budget = must(budgets.Get(ctx, "b", metav1.GetOptions{}))(t)
	if _, ok := budget.Status.DisruptedPods["p1"]; !ok || budget.Status.DisruptionsAllowed != 0 {
		t.Errorf("the budget's status: %+v", budget.Status)
	}
}

func TestNamespaceEndsWhenItsFinalizersDo(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	namespaces := shared.client.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	found := must(namespaces.Get(ctx, ns, metav1.GetOptions{}))(t)
	if found.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %s", found.Status.Phase)
	}
	if err := namespaces.Delete(ctx, ns, metav1.DeleteOptions{}); err != nil { // it is on its way: no conflict
		t.Errorf("deleted twice: %v", err)
	}
	_, err := shared.client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("created in a terminating namespace: %v", err)
	}
	found.Spec.Finalizers = nil
	must(namespaces.Finalize(ctx, found, metav1.UpdateOptions{}))(t)
	if _, err := namespaces.Get(ctx, ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
}

func TestServerSideApply(t *testing.T) {
	ctx, maps := t.Context(), shared.client.CoreV1().ConfigMaps(namespace(t))
	apply := func(manager, value string, force bool) error {
		body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"k":"` + value + `"}}`)
		_, err := maps.Patch(ctx, "c", types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
		return err
	}
	if err := apply("one", "a", false); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", "b", false); !apierrors.IsConflict(err) {
		t.Errorf("a field of somebody else: %v", err)
	}
	if err := apply("two", "b", true); err != nil {
		t.Error(err)
	}
}

func TestWatchListSendsABookmark(t *testing.T) {
	ctx, maps := t.Context(), shared.client.CoreV1().ConfigMaps(namespace(t))
	must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}))(t)
	initial := true
	w := must(maps.Watch(ctx, metav1.ListOptions{SendInitialEvents: &initial, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}))(t)
	defer w.Stop()
	var got []watch.EventType
	for e := range w.ResultChan() {
		got = append(got, e.Type)
		if e.Type == watch.Bookmark {
			break
		}
	}
	if diff := cmp.Diff([]watch.EventType{watch.Added, watch.Bookmark}, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadInputIsTheClientsFault(t *testing.T) {
	ns := namespace(t)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	const asJSON = "application/json"
	valid := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`
	cases := map[string]struct {
		method, path, contentType, accept, body string
		want                                    int
	}{
		"broken JSON":              {"POST", maps, asJSON, asJSON, `{"kind":`, 400},
		"another kind":             {"POST", maps, asJSON, asJSON, `{"apiVersion":"v1","kind":"Secret"}`, 400},
		"unknown content type":     {"POST", maps, "text/csv", asJSON, valid, 415},
		"unknown field, strict":    {"POST", maps + "?fieldValidation=Strict", asJSON, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"foo":1}`, 400},
		"bad name":                 {"POST", maps, asJSON, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X!"}}`, 422},
		"body over the limit":      {"POST", maps, asJSON, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`, 413},
		"bad continue token":       {"GET", maps + "?limit=1&continue=abc", asJSON, asJSON, "", 400},
		"bad label selector":       {"GET", maps + "?labelSelector=a%20in", asJSON, asJSON, "", 400},
		"bad resource version":     {"GET", maps + "?resourceVersion=x", asJSON, asJSON, "", 400},
		"bad patch":                {"PATCH", maps + "/x", "application/json-patch+json", asJSON, `{`, 400},
		"unknown patch type":       {"PATCH", maps + "/x", "text/plain", asJSON, `{}`, 415},
		"no such resource":         {"GET", "/api/v1/nothing", asJSON, asJSON, "", 404},
		"no such group":            {"GET", "/apis/no.such/v1", asJSON, asJSON, "", 404},
		"Table of unknown version": {"GET", maps, asJSON, "application/json;as=Table;v=v1alpha1;g=meta.k8s.io", "", 406},
		"method not allowed":       {"PUT", maps, asJSON, asJSON, valid, 405},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			code, body := shared.raw(t, c.method, c.path, c.contentType, c.accept, c.body)
			if code != c.want {
				t.Errorf("got %d, want %d: %.300s", code, c.want, body)
			}
		})
	}
}

func TestTableHasTheRowsColumns(t *testing.T) {
	ns := namespace(t)
	must(shared.client.CoreV1().Pods(ns).Create(t.Context(), pod("p"), metav1.CreateOptions{}))(t)
	code, body := shared.raw(t, "GET", "/api/v1/namespaces/"+ns+"/pods", "", "application/json;as=Table;v=v1;g=meta.k8s.io", "")
	var table metav1.Table
	if err := json.Unmarshal([]byte(body), &table); err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	want := []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[1] != "0/1" || table.Rows[0].Cells[2] != "Pending" {
		t.Errorf("rows: %+v", table.Rows)
	}
}

func TestOpenAPIAndDiscovery(t *testing.T) {
	code, body := shared.raw(t, "GET", "/openapi/v2", "", "application/json", "")
	if code != http.StatusOK || !strings.Contains(body, `"io.k8s.api.core.v1.Pod"`) || strings.Contains(body, "__internal") {
		t.Errorf("OpenAPI v2: %d, %d bytes", code, len(body))
	}
	code, body = shared.raw(t, "GET", "/openapi/v3/apis/apps/v1", "", "application/json", "")
	if code != http.StatusOK || !strings.Contains(body, `"io.k8s.api.apps.v1.Deployment"`) || strings.Contains(body, "__internal") {
		t.Errorf("OpenAPI v3: %d, %d bytes", code, len(body))
	}
	groups, lists, err := shared.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	for _, want := range []string{"", "apps", "apiextensions.k8s.io", "apiregistration.k8s.io", "authorization.k8s.io"} {
		if !slices.Contains(names, want) {
			t.Errorf("group %q is missing from %v", want, names)
		}
	}
	if len(lists) < len(groups) {
		t.Errorf("%d groups, %d resource lists", len(groups), len(lists))
	}
}
