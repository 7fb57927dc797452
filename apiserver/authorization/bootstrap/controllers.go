package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"
)

// controllerRules are what each controller may do, by the name of its service account in kube-system.
func controllerRules() []struct { //nolint:funlen // a table
	name  string
	rules []rbacv1.PolicyRule
} {
	return []struct {
		name  string
		rules []rbacv1.PolicyRule
	}{
		{"attachdetach-controller", rules(
			rule("list,watch", core, "persistentvolumeclaims,persistentvolumes"), rule(read, core, "nodes"),
			rule("patch,update", core, "nodes/status"), rule("list,watch", core, "pods"),
			rule(read+",create,delete", storage, "volumeattachments"), rule(read, storage, "csidrivers,csinodes"))},
		{"clusterrole-aggregation-controller", silent(rule("escalate,get,list,patch,update,watch", rbacG, "clusterroles"))},
		{"cronjob-controller", rules(
			rule("get,list,update,watch", batch, "cronjobs"), rule("create,delete,get,list,patch,update,watch", batch, "jobs"),
			rule("update", batch, "cronjobs/status,cronjobs/finalizers"), rule("delete,list,watch", core, "pods"))},
		{"daemon-set-controller", rules(
			rule(read, apps+","+extensions, "daemonsets"), rule("update", apps+","+extensions, "daemonsets/status,daemonsets/finalizers"),
			rule("list,watch", core, "nodes"), rule("create,delete,list,patch,watch", core, "pods"), rule("create", core, "pods/binding"),
			rule("create,delete,get,list,patch,update,watch", apps, "controllerrevisions"))},
		{"deployment-controller", rules(
			rule("get,list,update,watch", apps+","+extensions, "deployments"),
			rule("update", apps+","+extensions, "deployments/status,deployments/finalizers"),
			rule("create,delete,get,list,patch,update,watch", apps+","+extensions, "replicasets"), rule("get,list,update,watch", core, "pods"))},
		{"device-taint-eviction-controller", rules(
			rule("get,list,watch,delete", core, "pods"), rule("update,patch", core, "pods/status"),
			rule(read, resourceG, "resourceclaims,resourceslices,devicetaintrules,deviceclasses"), rule("update,patch", resourceG, "devicetaintrules/status"))},
		{"disruption-controller", rules(
			rule(read, apps+","+extensions, "deployments,replicasets"), rule(read, core, "replicationcontrollers"),
			rule(read, policy, "poddisruptionbudgets"), rule(read, apps, "statefulsets"), rule("update", policy, "poddisruptionbudgets/status"),
			rule("patch,update", core, "pods/status"), rule("get", "*", "*/scale"))},
		{"endpoint-controller", rules(
			rule(read, core, "pods,services"), rule("create,delete,get,list,update,watch", core, "endpoints"), rule("create", core, "endpoints/restricted"))},
		{"endpointslice-controller", rules(
			rule(read, core, "nodes,pods,services"), rule("update", core, "services/finalizers"),
			rule("create,delete,get,list,update,watch", discovery, "endpointslices"))},
		{"endpointslicemirroring-controller", rules(
			rule(read, core, "endpoints,services"), rule("update", core, "services/finalizers,endpoints/finalizers"),
			rule("create,delete,get,list,update,watch", discovery, "endpointslices"))},
		{"ephemeral-volume-controller", rules(
			rule("update", core, "pods/finalizers"), rule(read, core, "pods"), rule("create,get,list,watch", core, "persistentvolumeclaims"))},
		{"expand-controller", rules(
			rule("get,list,patch,update,watch", core, "persistentvolumes"), rule("patch,update", core, "persistentvolumeclaims/status"),
			rule(read, core, "persistentvolumeclaims"))},
		{"generic-garbage-collector", rules(rule("delete,get,list,patch,update,watch", "*", "*"))},
		{"horizontal-pod-autoscaler", rules(
			rule(read, autoscaling, "horizontalpodautoscalers"), rule("update", autoscaling, "horizontalpodautoscalers/status"),
			rule("get,update", "*", "*/scale"), rule("list,watch", core, "pods"), rule("list,watch", metricsG, "pods"),
			rule(read, "custom.metrics.k8s.io,external.metrics.k8s.io", "*"))},
		{"job-controller", rules(
			rule("get,list,patch,update,watch", batch, "jobs"), rule("update", batch, "jobs/status,jobs/finalizers"),
			rule("create,delete,list,patch,watch", core, "pods"))},
		{"legacy-service-account-token-cleaner", silent(
			named("get", core, "configmaps", "kube-apiserver-legacy-service-account-token-tracking"), rule("patch,delete", core, "secrets"))},
		{"namespace-controller", silent(
			rule("delete,get,list,watch", core, "namespaces"), rule("update", core, "namespaces/finalize,namespaces/status"),
			rule("delete,deletecollection,get,list,watch", "*", "*"))},
		{"node-controller", rules(
			rule("delete,get,list,patch,update,watch", core, "nodes"), rule("patch,update", core, "nodes/status"),
			rule("patch,update", core, "pods/status"), rule("delete,list,get,watch", core, "pods"),
			rule(read, coordination, "leases"))},
		{"persistent-volume-binder", silent(eventRule(),
			rule("create,delete,get,list,update,watch", core, "persistentvolumes"), rule("update", core, "persistentvolumes/status"),
			rule("get,list,update,watch", core, "persistentvolumeclaims"), rule("update", core, "persistentvolumeclaims/status"),
			rule("create,delete,get,list,watch", core, "pods"), rule(read, storage, "storageclasses"), rule("list,watch", core, "nodes"), rule("watch", core, "events"))},
		{"pod-garbage-collector", silent(
			rule("delete,list,watch", core, "pods"), rule("get,list,watch", core, "nodes"), rule("patch", core, "pods/status"))},
		{"podcertificaterequestcleaner", silent(rule("get,list,watch,delete", certificates, "podcertificaterequests"))},
		{"pv-protection-controller", rules(rule("get,list,update,watch", core, "persistentvolumes"))},
		{"pvc-protection-controller", rules(rule("get,list,update,watch", core, "persistentvolumeclaims"), rule("update", core, "persistentvolumeclaims/status"),
			rule("get,list,watch", core, "pods"))},
		{"replicaset-controller", rules(
			rule("get,list,update,watch", apps+","+extensions, "replicasets"),
			rule("update", apps+","+extensions, "replicasets/status,replicasets/finalizers"), rule("create,delete,list,patch,watch", core, "pods"))},
		{"replication-controller", rules(
			rule("get,list,update,watch", core, "replicationcontrollers"),
			rule("update", core, "replicationcontrollers/status,replicationcontrollers/finalizers"), rule("create,delete,list,patch,watch", core, "pods"))},
		{"resource-claim-controller", rules(
			rule("update", core, "pods/finalizers"), rule(read, core, "pods"), rule("patch,update", core, "pods/status"),
			rule(read+",create,delete", resourceG, "resourceclaims"), rule("update,patch", resourceG, "resourceclaims"),
			rule("update,patch", resourceG, "resourceclaims/status,resourceclaims/binding"))},
		{"resourcequota-controller", rules(rule("list,watch", "*", "*"), rule("update", core, "resourcequotas/status"))},
		{"root-ca-cert-publisher", rules(rule("create,update", core, "configmaps"))},
		{"kube-apiserver-serving-clustertrustbundle-publisher", rules(
			named("attest", certificates, "signers", "kubernetes.io/kube-apiserver-serving"),
			rule("create,delete,list,update,watch", certificates, "clustertrustbundles"))},
		{"route-controller", rules(rule("list,watch", core, "nodes"), rule("patch", core, "nodes/status"))},
		{"selinux-warning-controller", rules(rule(read, core, "pods,persistentvolumeclaims,persistentvolumes"), rule(read, storage, "csidrivers"))},
		{"service-account-controller", rules(rule("create", core, "serviceaccounts"))},
		{"service-cidrs-controller", rules(
			rule(read+",patch,update", networking, "servicecidrs"), rule("patch,update", networking, "servicecidrs/finalizers,servicecidrs/status"),
			rule(read, networking, "ipaddresses"))},
		{"service-controller", rules(
			rule(read, core, "services"), rule("patch,update", core, "services/status"), rule("list,watch", core, "nodes"))},
		{"statefulset-controller", rules(
			rule("list,watch", core, "pods"), rule(read, apps, "statefulsets"), rule("update", apps, "statefulsets/status,statefulsets/finalizers"),
			rule("create,delete,get,patch,update", core, "pods"),
			rule("create,delete,get,list,patch,update,watch", apps, "controllerrevisions"),
			rule("create,"+read, core, "persistentvolumeclaims"), rule("update,delete", core, "persistentvolumeclaims"), rule("update", core, "pods/finalizers"))},
		{"storage-version-migrator-controller", silent(
			rule("list,patch", "*", "*"), rule("update", storagemigr, "storageversionmigrations/status"),
			rule("get", "apiextensions.k8s.io", "customresourcedefinitions"),
			rule("patch", "apiextensions.k8s.io", "customresourcedefinitions/status"))},
		{"ttl-after-finished-controller", rules(rule("delete,get,list,watch", batch, "jobs"))},
		{"ttl-controller", rules(rule("list,patch,update,watch", core, "nodes"))},
		{"validatingadmissionpolicy-status-controller", rules(
			rule(read, admissionG, "validatingadmissionpolicies"),
			rule("get,patch,update", admissionG, "validatingadmissionpolicies/status"))},
		{"volumeattributesclass-protection-controller", rules(
			rule(read, core, "persistentvolumeclaims,persistentvolumes"), rule(read+",update", storage, "volumeattributesclasses"))},
		{"certificate-controller", rules(
			rule("delete,get,list,watch", certificates, "certificatesigningrequests"),
			rule("update", certificates, "certificatesigningrequests/approval,certificatesigningrequests/status"),
			named("approve", certificates, "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
			named("sign", certificates, "signers", "kubernetes.io/legacy-unknown", "kubernetes.io/kube-apiserver-client",
				"kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"),
			rule("create", authz, "subjectaccessreviews"))},
	}
}

// rules adds what every controller may do: tell about its work.
func rules(own ...rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return append(own, eventRule())
}

// silent is rules for a controller that tells nothing.
func silent(own ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return own }

// ControllerRoles returns the roles of the controllers with their bindings. Each is bound to the controller's service account, as
// upstream does, and to the controller manager's own user: ours runs all controllers on one client and one cache.
func ControllerRoles() ([]rbacv1.ClusterRole, []rbacv1.ClusterRoleBinding) {
	var roles []rbacv1.ClusterRole
	var bindings []rbacv1.ClusterRoleBinding
	for _, controller := range controllerRules() {
		name := "system:controller:" + controller.name
		roles = append(roles, clusterRole(name, controller.rules...))
		bindings = append(bindings, bindCluster(name, name, account(controller.name), user(controllerManager)))
	}
	return roles, bindings
}
