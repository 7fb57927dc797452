package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	healthPaths    = "/livez,/readyz,/healthz"
	discoveryPaths = "/livez,/readyz,/healthz,/version,/version/,/openapi,/openapi/*,/api,/api/*,/apis,/apis/*"
	monitorPaths   = "/metrics,/metrics/slis,/livez,/readyz,/healthz,/livez/*,/readyz/*,/healthz/*,/statusz,/flagz"

	authenticated   = "system:authenticated"
	unauthenticated = "system:unauthenticated"

	controllerManager = "system:kube-controller-manager"
	scheduler         = "system:kube-scheduler"
)

// ClusterRoles are the default cluster roles, without those of the controllers.
func ClusterRoles() []rbacv1.ClusterRole {
	roles := []rbacv1.ClusterRole{
		clusterRole("cluster-admin", rule("*", "*", "*"), urls("*", "*")),
		clusterRole("system:discovery", urls("get", discoveryPaths)),
		clusterRole("system:monitoring", urls("get", monitorPaths), rule("get", core, "nodes/metrics")),
		clusterRole("system:basic-user",
			rule("create", authz, "selfsubjectaccessreviews,selfsubjectrulesreviews"),
			rule("create", authn, "selfsubjectreviews")),
		clusterRole("system:public-info-viewer", urls("get", healthPaths+",/version,/version/")),
		clusterRole("system:auth-delegator",
			rule("create", authn, "tokenreviews"), rule("create", authz, "subjectaccessreviews")),
		clusterRole("system:kube-aggregator", rule(read, core, "services,endpoints")),
		clusterRole("system:service-account-issuer-discovery",
			urls("get", "/.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/")),
		clusterRole("system:cluster-trust-bundle-discovery", rule(read, certificates, "clustertrustbundles")),
		clusterRole("system:kube-dns", rule("list,watch", core, "endpoints,services")),
		clusterRole("system:heapster",
			rule(read, core, "events,pods,nodes,namespaces"), rule(read, extensions, "deployments")),
		clusterRole("system:persistent-volume-provisioner",
			rule("create,delete,get,list,watch", core, "persistentvolumes"),
			rule("get,list,update,watch", core, "persistentvolumeclaims"),
			rule(read, storage, "storageclasses"), rule("watch", core, "events"), eventRule()),
	}
	roles = append(roles, nodeRoles()...)
	roles = append(roles, componentRoles()...)
	roles = append(roles, certificateRoles()...)
	return append(append(roles, installerRoles()...), userRoles()...)
}

// installerRoles are no defaults of the server's: CoreDNS as kubeadm installs it, and what the API server needs of kubelets beyond
// system:kubelet-api-admin.
func installerRoles() []rbacv1.ClusterRole {
	roles := []rbacv1.ClusterRole{
		clusterRole("system:coredns",
			rule("list,watch", core, "endpoints,services,pods,namespaces"), rule("list,watch", discovery, "endpointslices")),
		clusterRole("keelson:kubelet-checkpoint", rule("create", core, "nodes/checkpoint")),
	}
	for i := range roles {
		delete(roles[i].Labels, bootstrapping)
	}
	return roles
}

func nodeRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:node", NodeRules()...),
		clusterRole("system:node-problem-detector", rule("get", core, "nodes"), rule("patch", core, "nodes/status"), eventRule()),
		clusterRole("system:kubelet-api-admin",
			rule(read, core, "nodes"), rule("proxy", core, "nodes"),
			rule("*", core, "nodes/proxy,nodes/metrics,nodes/configz,nodes/healthz,nodes/log,nodes/pods,nodes/stats")),
		clusterRole("system:node-bootstrapper", rule("create,get,list,watch", certificates, "certificatesigningrequests")),
		clusterRole("system:node-proxier",
			rule("list,watch", core, "services,endpoints"), rule(read, core, "nodes"), eventRule(),
			rule("list,watch", discovery, "endpointslices"), rule("list,watch", networking, "servicecidrs")),
	}
}

// NodeRules are what every node may do as far as RBAC can say it. The node authorizer allows them too, narrowing those on secrets,
// claims, pods and the like down to what the node's pods need.
func NodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", authn, "tokenreviews"),
		rule("create", authz, "subjectaccessreviews,localsubjectaccessreviews"),
		rule(read, core, "services"),
		rule("create,get,list,watch", core, "nodes"),
		rule("patch,update", core, "nodes,nodes/status"),
		eventRule(),
		rule(read, core, "pods"), rule("create,delete", core, "pods"),
		rule("patch,update", core, "pods/status"),
		rule("create", core, "pods/eviction"),
		rule(read, core, "configmaps,secrets"),
		rule("get", core, "persistentvolumeclaims,persistentvolumes"),
		rule("get,patch,update", core, "persistentvolumeclaims/status"),
		rule("get", core, "endpoints"),
		rule("create,get,list,watch", certificates, "certificatesigningrequests"),
		rule("get,create,update,patch,delete", coordination, "leases"),
		rule("get", storage, "volumeattachments"),
		rule("create", core, "serviceaccounts/token"),
		rule("get", core, "serviceaccounts"),
		rule(read, storage, "csidrivers"),
		rule("get,create,update,patch,delete", storage, "csinodes"),
		rule(read, nodeG, "runtimeclasses"),
		rule("get", resourceG, "resourceclaims"),
		rule("deletecollection", resourceG, "resourceslices"),
		rule(read, certificates, "clustertrustbundles"),
		rule(read+",create", certificates, "podcertificaterequests"),
	}
}

// componentRoles are those of the control plane's own components.
func componentRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole(controllerManager,
			eventRule(),
			rule("create", coordination, "leases"),
			named("get,update", coordination, "leases", "kube-controller-manager"),
			rule("create", core, "secrets,serviceaccounts"), rule("delete", core, "secrets"),
			rule("get", core, "namespaces,secrets,serviceaccounts,configmaps"),
			rule("update", core, "secrets,serviceaccounts"),
			rule("create", authn, "tokenreviews"), rule("create", authz, "subjectaccessreviews"),
			rule("list,watch", "*", "*"),
			rule("create", core, "serviceaccounts/token")),
		clusterRole(scheduler,
			eventRule(),
			rule("create", coordination, "leases"),
			named("get,list,update,watch", coordination, "leases", "kube-scheduler"),
			rule(readWrite, coordination, "leasecandidates"),
			rule(read, core, "nodes"), rule("delete,get,list,watch", core, "pods"),
			rule("create", core, "bindings,pods/binding"), rule("patch,update", core, "pods/status"),
			rule(read, core, "replicationcontrollers,services,namespaces"),
			rule(read, apps+","+extensions, "replicasets"), rule(read, apps, "statefulsets"),
			rule(read, policy, "poddisruptionbudgets"),
			rule(read, core, "persistentvolumeclaims,persistentvolumes"),
			rule("create", authn, "tokenreviews"), rule("create", authz, "subjectaccessreviews"),
			rule(read, storage, "csinodes,csidrivers,csistoragecapacities,volumeattachments"),
			rule(read, resourceG, "deviceclasses,resourceslices,devicetaintrules"),
			rule(read+",patch,update", resourceG, "resourceclaims"), rule("create,delete", resourceG, "resourceclaims"),
			rule(read+",patch,update", resourceG, "resourceclaims/status"), rule("patch,update", resourceG, "resourceclaims/binding"),
			rule("update", core, "pods/finalizers")),
		clusterRole("system:volume-scheduler",
			rule(read+",patch,update", core, "persistentvolumes"),
			rule(read, storage, "storageclasses"),
			rule(read+",patch,update", core, "persistentvolumeclaims")),
	}
}

func certificateRoles() []rbacv1.ClusterRole {
	approver := func(name, signer string) rbacv1.ClusterRole {
		return clusterRole("system:certificates.k8s.io:"+name+"-approver", named("approve", certificates, "signers", signer))
	}
	return []rbacv1.ClusterRole{
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:nodeclient",
			rule("create", certificates, "certificatesigningrequests/nodeclient")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
			rule("create", certificates, "certificatesigningrequests/selfnodeclient")),
		approver("legacy-unknown", "kubernetes.io/legacy-unknown"),
		approver("kubelet-serving", "kubernetes.io/kubelet-serving"),
		approver("kube-apiserver-client", "kubernetes.io/kube-apiserver-client"),
		approver("kube-apiserver-client-kubelet", "kubernetes.io/kube-apiserver-client-kubelet"),
	}
}

// userRoles are admin, edit and view: each the sum of the roles that are labelled for it. Their rules are filled in here, too, so
// that they hold before the aggregation controller has run for the first time.
func userRoles() []rbacv1.ClusterRole {
	view, edit, admin := viewRules(), editRules(), adminRules()
	labelled := func(name string, rules []rbacv1.PolicyRule, labels ...string) rbacv1.ClusterRole {
		return rbacv1.ClusterRole{ObjectMeta: meta("", name, labels...), Rules: rules}
	}
	sum := func(name string, labels []string, rules ...[]rbacv1.PolicyRule) rbacv1.ClusterRole {
		role := rbacv1.ClusterRole{ObjectMeta: meta("", name, labels...), AggregationRule: &rbacv1.AggregationRule{
			ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + name: "true"}}},
		}}
		for _, more := range rules {
			role.Rules = append(role.Rules, more...)
		}
		return role
	}
	return []rbacv1.ClusterRole{
		sum("admin", nil, admin, edit, view),
		sum("edit", []string{aggregateTo + "admin"}, edit, view),
		sum("view", []string{aggregateTo + "edit"}, view),
		labelled("system:aggregate-to-admin", admin, aggregateTo+"admin"),
		labelled("system:aggregate-to-edit", edit, aggregateTo+"edit"),
		labelled("system:aggregate-to-view", view, aggregateTo+"view"),
	}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", authz, "localsubjectaccessreviews"),
		rule(readWrite, rbacG, "roles,rolebindings"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, core, "pods/attach,pods/proxy,pods/exec,pods/portforward,secrets,services/proxy"),
		rule("impersonate", core, "serviceaccounts"),
		rule(write, core, "pods,pods/attach,pods/proxy,pods/exec,pods/portforward"),
		rule("create", core, "pods/eviction"),
		rule(write, events, "events"),
		rule(write, core, "configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy"),
		rule("create", core, "serviceaccounts/token"),
		rule(write, apps, "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale"),
		rule(write, autoscaling, "horizontalpodautoscalers"),
		rule(write, batch, "cronjobs,jobs"),
		rule(write, policy, "poddisruptionbudgets"),
		rule(write, networking, "ingresses,networkpolicies"),
		rule("create,delete,deletecollection,get,list,patch,update,watch", coordination, "leases"),
		rule(write, resourceG, "resourceclaims,resourceclaimtemplates"),
		rule(write, extensions, "daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, core, "configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status"),
		rule(read, core, "bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status"),
		rule(read, events, "events"),
		rule(read, core, "namespaces"),
		rule(read, discovery, "endpointslices"),
		rule(read, apps, "controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status"),
		rule(read, autoscaling, "horizontalpodautoscalers,horizontalpodautoscalers/status"),
		rule(read, batch, "cronjobs,cronjobs/status,jobs,jobs/status"),
		rule(read, policy, "poddisruptionbudgets,poddisruptionbudgets/status"),
		rule(read, networking, "ingresses,ingresses/status,networkpolicies"),
		rule(read, resourceG, "resourceclaims,resourceclaims/status,resourceclaimtemplates"),
		rule(read, extensions, "daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale"),
	}
}

// ClusterRoleBindings are the default bindings, without those of the controllers.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	bindings := []rbacv1.ClusterRoleBinding{
		bindCluster("cluster-admin", "cluster-admin", group("system:masters")),
		bindCluster("system:monitoring", "system:monitoring", group("system:monitoring")),
		bindCluster("system:discovery", "system:discovery", group(authenticated)),
		bindCluster("system:basic-user", "system:basic-user", group(authenticated)),
		bindCluster("system:public-info-viewer", "system:public-info-viewer", group(authenticated), group(unauthenticated)),
		bindCluster("system:node-proxier", "system:node-proxier", user("system:kube-proxy")),
		bindCluster(controllerManager, controllerManager, user(controllerManager)),
		bindCluster(scheduler, scheduler, user(scheduler)),
		bindCluster("system:volume-scheduler", "system:volume-scheduler", user(scheduler)),
		bindCluster("system:kube-dns", "system:kube-dns", account("kube-dns")),
		bindCluster("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", group("system:serviceaccounts")),
		bindCluster("system:cluster-trust-bundle-discovery", "system:cluster-trust-bundle-discovery", group("system:serviceaccounts")),
		// Nodes get their rights from the node authorizer. The binding is there for who runs without it and adds the group.
		bindCluster("system:node", "system:node"),
	}
	return append(bindings, installerBindings()...)
}

// installerBindings are what kubeadm adds, under its names: nodes can join with a bootstrap token and renew their certificates.
// None is a default of the server's and labelled as one.
func installerBindings() []rbacv1.ClusterRoleBinding {
	bootstrappers := []rbacv1.Subject{group("system:bootstrappers"), group("system:bootstrappers:kubeadm:default-node-token")}
	bindings := []rbacv1.ClusterRoleBinding{
		bindCluster("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", bootstrappers...),
		bindCluster("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", bootstrappers...),
		bindCluster("kubeadm:node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", group("system:nodes")),
		bindCluster("kubeadm:node-proxier", "system:node-proxier", account("kube-proxy")),
		bindCluster("kubeadm:cluster-admins", "cluster-admin", group("kubeadm:cluster-admins")),
		bindCluster("system:coredns", "system:coredns", account("coredns")),
		// Upstream leaves serving certificates to an administrator; our approver checks them against the Node itself.
		bindCluster("keelson:kubelet-serving-approver", "system:certificates.k8s.io:kubelet-serving-approver", user(controllerManager), account("certificate-controller")),
		// The API server as a client of kubelets: logs, exec, port-forward.
		bindCluster("keelson:kubelet-api-admin", "system:kubelet-api-admin", user("kube-apiserver-kubelet-client")),
		bindCluster("keelson:kubelet-checkpoint", "keelson:kubelet-checkpoint", user("kube-apiserver-kubelet-client")),
	}
	for i := range bindings {
		delete(bindings[i].Labels, bootstrapping)
	}
	return bindings
}

// Roles are the default roles in kube-system and kube-public.
func Roles() []rbacv1.Role {
	system, public := metav1.NamespaceSystem, metav1.NamespacePublic
	leader := func(component string) rbacv1.Role {
		return role(system, "system::leader-locking-"+component,
			rule("create,get,list,update,watch", coordination, "leases,leasecandidates"))
	}
	return []rbacv1.Role{
		role(system, "extension-apiserver-authentication-reader", named(read, core, "configmaps", "extension-apiserver-authentication")),
		role(system, "system:controller:bootstrap-signer", rule(read, core, "secrets")),
		role(system, "system:controller:cloud-provider", rule("create,get,list,watch", core, "configmaps")),
		role(system, "system:controller:token-cleaner", rule(read+",delete", core, "secrets"), eventRule()),
		leader("kube-controller-manager"),
		leader("kube-scheduler"),
		role(public, "system:controller:bootstrap-signer",
			rule(read, core, "configmaps"), named("update", core, "configmaps", "cluster-info"), eventRule()),
	}
}

// RoleBindings bind Roles.
func RoleBindings() []rbacv1.RoleBinding {
	system, public := metav1.NamespaceSystem, metav1.NamespacePublic
	manager := user(controllerManager)
	return []rbacv1.RoleBinding{
		bind(system, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader", manager, user(scheduler)),
		bind(system, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", account("bootstrap-signer"), manager),
		bind(system, "system:controller:cloud-provider", "system:controller:cloud-provider", account("cloud-provider")),
		bind(system, "system:controller:token-cleaner", "system:controller:token-cleaner", account("token-cleaner"), manager),
		bind(system, "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager",
			manager, account("kube-controller-manager"), account("leader-election-controller")),
		bind(system, "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler",
			user(scheduler), account("kube-scheduler")),
		bind(public, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", account("bootstrap-signer"), manager),
	}
}
