package bootstrap

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Verb lists that many rules share.
const (
	read      = "get,list,watch"
	readWrite = "get,list,watch,create,delete,deletecollection,patch,update"
	write     = "create,delete,deletecollection,patch,update"
)

// Groups that rules name.
const (
	core          = ""
	admissionG    = "admissionregistration.k8s.io"
	apps          = "apps"
	authn         = "authentication.k8s.io"
	authz         = "authorization.k8s.io"
	autoscaling   = "autoscaling"
	batch         = "batch"
	certificates  = "certificates.k8s.io"
	coordination  = "coordination.k8s.io"
	discovery     = "discovery.k8s.io"
	events        = "events.k8s.io"
	extensions    = "extensions"
	metricsG      = "metrics.k8s.io"
	networking    = "networking.k8s.io"
	nodeG         = "node.k8s.io"
	policy        = "policy"
	rbacG         = rbacv1.GroupName
	resourceG     = "resource.k8s.io"
	scheduling    = "scheduling.k8s.io"
	storage       = "storage.k8s.io"
	storagemigr   = "storagemigration.k8s.io"
	aggregateTo   = "rbac.authorization.k8s.io/aggregate-to-"
	bootstrapping = "kubernetes.io/bootstrapping"
)

// rule allows verbs on resources of groups; each is a comma-separated list, "" being the core group.
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: split(verbs), APIGroups: split(groups), Resources: split(resources)}
}

// named is rule for objects with the given names.
func named(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	r := rule(verbs, groups, resources)
	r.ResourceNames = slices.Sorted(slices.Values(names))
	return r
}

// urls allows verbs on paths.
func urls(verbs, paths string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: split(verbs), NonResourceURLs: split(paths)}
}

// eventRule lets a component tell what it does.
func eventRule() rbacv1.PolicyRule {
	return rule("create,patch,update", core+","+events, "events")
}

// split returns the parts of a list in order, as upstream stores them.
func split(list string) []string { return slices.Sorted(strings.SplitSeq(list, ",")) }

func meta(namespace, name string, labels ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{bootstrapping: "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	for _, label := range labels {
		m.Labels[label] = "true"
	}
	return m
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) rbacv1.Role {
	return rbacv1.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

func bindCluster(name, role string, subjects ...rbacv1.Subject) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: meta("", name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacG, Kind: "ClusterRole", Name: role},
	}
}

func bind(namespace, name, role string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{
		ObjectMeta: meta(namespace, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacG, Kind: "Role", Name: role},
	}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacG, Kind: rbacv1.GroupKind, Name: name}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacG, Kind: rbacv1.UserKind, Name: name}
}

func account(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}
}
