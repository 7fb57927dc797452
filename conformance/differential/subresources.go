package main

import (
	"context"
	"strings"
)

// step is a request of the subresource stage: what changes the objects that the next steps need is done, the rest only tried.
type step struct {
	method, path, body string
	kind               string // Content-Type; empty: JSON
}

// subresources goes through the parts of objects that have rules of their own.
func (c *comparison) subresources(ctx context.Context) {
	at := "/api/v1/namespaces/" + namespace
	apps := "/apis/apps/v1/namespaces/" + namespace
	for _, s := range subresourceSteps {
		path := strings.NewReplacer("{ns}", at, "{apps}", apps, "{policy}", "/apis/policy/v1/namespaces/"+namespace, "{batch}", "/apis/batch/v1/namespaces/"+namespace).Replace(s.path)
		kind := s.kind
		if kind == "" {
			kind = "application/json"
		}
		c.both(ctx, "subresources", request{method: s.method, path: path, body: []byte(s.body), header: map[string]string{"Content-Type": kind}})
	}
}

const podOne = `{"metadata":{"name":"one","labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i","resizePolicy":[{"resourceName":"memory","restartPolicy":"RestartContainer"}],` +
	`"resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"2","memory":"1Gi"}}}],"initContainers":[{"name":"i","image":"i"}]}}`

// subresourceSteps is a story told to both servers.
var subresourceSteps = []step{
	{"POST", "{ns}/pods", podOne, ""},
	{"POST", "{ns}/pods", `{"metadata":{"name":"gated"},"spec":{"schedulingGates":[{"name":"a.b/c"}],"containers":[{"name":"c","image":"i"}]}}`, ""},
	{"POST", "/api/v1/nodes", `{"metadata":{"name":"n1"},"spec":{"podCIDR":"10.1.0.0/24"}}`, ""},
	// binding
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"target":{"kind":"Node"}}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"target":{"kind":"Pod","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"metadata":{"name":"two"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"metadata":{"name":"one","uid":"x"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"metadata":{"name":"one","resourceVersion":"1"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding?dryRun=All", `{"metadata":{"name":"one","labels":{"a":"b"},"annotations":{"c":"d"}},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/gated/binding", `{"metadata":{"name":"gated"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/absent/binding", `{"metadata":{"name":"absent"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/bindings?dryRun=All", `{"metadata":{"name":"one"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding", `{"metadata":{"name":"one"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"POST", "{ns}/pods/one/binding", `{"metadata":{"name":"one"},"target":{"kind":"Node","name":"n1"}}`, ""},
	{"GET", "{ns}/pods/one", ``, ""},
	// ephemeral containers
	{"GET", "{ns}/pods/one/ephemeralcontainers", ``, ""},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i","targetContainerName":"nothing"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"c","image":"i"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"e"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i","ports":[{"containerPort":1}],"livenessProbe":{"exec":{"command":["a"]}},"lifecycle":{},"resources":{"limits":{"cpu":"1"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"containers":[{"name":"c","image":"other"}],"ephemeralContainers":[{"name":"e","image":"i"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i","targetContainerName":"c","stdin":true,"tty":true}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":null}}`, mergePatch},
	{"PATCH", "{ns}/pods/one/ephemeralcontainers?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"e","image":"j"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"f","image":"j"}]}}`, strategicPatch},
	// resize
	{"GET", "{ns}/pods/one/resize", ``, ""},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1500m"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"3"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":{"limits":{"memory":"512Mi"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"example.com/x":"3"},"limits":{"example.com/x":"3"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":null}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","image":"j"}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resizePolicy":[{"resourceName":"memory","restartPolicy":"NotRequired"}]}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"spec":{"initContainers":[{"name":"i","resources":{"requests":{"cpu":"1"}}}]}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one/resize?dryRun=All", `{"metadata":{"labels":{"x":"y"}},"spec":{"nodeName":"n2"}}`, strategicPatch},
	{"PATCH", "{ns}/pods/one?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1500m"}}}]}}`, strategicPatch},
	// eviction
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{}`, ""},
	{"POST", "{ns}/pods/one/eviction", `{"metadata":{"name":"two"}}`, ""},
	{"POST", "{ns}/pods/absent/eviction", `{"metadata":{"name":"absent"}}`, ""},
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{"metadata":{"name":"one"},"deleteOptions":{"gracePeriodSeconds":-1}}`, ""},
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{"metadata":{"name":"one"},"deleteOptions":{"dryRun":["x"]}}`, ""},
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"one"}}`, ""},
	{"POST", "{policy}/poddisruptionbudgets", `{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"a"}}}}`, ""},
	{"PATCH", "{ns}/pods/one/status", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"podIP":"10.1.0.5","podIPs":[{"ip":"10.1.0.5"}]}}`, strategicPatch},
	{"POST", "{ns}/pods/one/eviction", `{"metadata":{"name":"one"}}`, ""},
	{"PATCH", "{policy}/poddisruptionbudgets/b/status", `{"status":{"observedGeneration":1,"expectedPods":1,"currentHealthy":1,"desiredHealthy":1,"disruptionsAllowed":0}}`, mergePatch},
	{"POST", "{ns}/pods/one/eviction", `{"metadata":{"name":"one"}}`, ""},
	{"PATCH", "{policy}/poddisruptionbudgets/b/status", `{"status":{"disruptionsAllowed":1}}`, mergePatch},
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{"metadata":{"name":"one"}}`, ""},
	{"POST", "{policy}/poddisruptionbudgets", `{"metadata":{"name":"b2"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"a"}}}}`, ""},
	{"POST", "{ns}/pods/one/eviction?dryRun=All", `{"metadata":{"name":"one"}}`, ""},
	{"DELETE", "{policy}/poddisruptionbudgets", ``, ""},
	// graceful deletion
	{"DELETE", "{ns}/pods/one?dryRun=All", ``, ""},
	{"DELETE", "{ns}/pods/one", `{"gracePeriodSeconds":20}`, ""},
	{"DELETE", "{ns}/pods/one", `{"gracePeriodSeconds":10}`, ""},
	{"DELETE", "{ns}/pods/one", `{"gracePeriodSeconds":40}`, ""},
	{"PATCH", "{ns}/pods/one?dryRun=All", `{"metadata":{"finalizers":["a.b/c"]}}`, mergePatch},
	{"POST", "{ns}/pods/one/eviction", `{"metadata":{"name":"one"}}`, ""},
	{"DELETE", "{ns}/pods/one?gracePeriodSeconds=0", ``, ""},
	{"DELETE", "{ns}/pods/gated", ``, ""},
	// scale
	{"POST", "{apps}/deployments", `{"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"a"}},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, ""},
	{"GET", "{apps}/deployments/d/scale", ``, ""},
	{"GET", "{apps}/deployments/none/scale", ``, ""},
	{"PATCH", "{apps}/deployments/d/scale", `{"spec":{"replicas":3}}`, mergePatch},
	{"PATCH", "{apps}/deployments/d/scale?dryRun=All", `{"spec":{"replicas":-1}}`, mergePatch},
	{"PATCH", "{apps}/deployments/d/scale?dryRun=All", `{"spec":{"replicas":3},"status":{"replicas":9}}`, mergePatch},
	{"PATCH", "{apps}/deployments/d/scale?dryRun=All", `{"metadata":{"name":"x"}}`, mergePatch},
	{"PATCH", "{apps}/deployments/d/scale?dryRun=All", `{"spec":{"replicas":4}}`, strategicPatch},
	{"PATCH", "{apps}/deployments/d/scale?dryRun=All&fieldManager=m", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":4}}`, applyPatch},
	{"PUT", "{apps}/deployments/d/scale?dryRun=All", `{"metadata":{"name":"d","namespace":"differential"},"spec":{"replicas":4}}`, ""},
	{"PUT", "{apps}/deployments/d/scale?dryRun=All", `{"metadata":{"name":"d","namespace":"differential","resourceVersion":"1"},"spec":{"replicas":4}}`, ""},
	{"PUT", "{apps}/deployments/d/scale?dryRun=All", `{"metadata":{"name":"e","namespace":"differential"},"spec":{"replicas":4}}`, ""},
	{"PUT", "{apps}/deployments/d/scale?dryRun=All", `{"metadata":{"name":"d","namespace":"differential","uid":"x"},"spec":{"replicas":4}}`, ""},
	{"PUT", "{apps}/deployments/none/scale?dryRun=All", `{"metadata":{"name":"none","namespace":"differential"},"spec":{"replicas":4}}`, ""},
	{"GET", "{apps}/deployments/d", ``, ""},
	{"DELETE", "{apps}/deployments/d", `{"propagationPolicy":"Foreground"}`, ""},
	{"DELETE", "{apps}/deployments/d", `{"propagationPolicy":"Orphan"}`, ""},
	{"POST", "{ns}/replicationcontrollers", `{"metadata":{"name":"r"},"spec":{"replicas":2,"selector":{"app":"a"},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, ""},
	{"GET", "{ns}/replicationcontrollers/r/scale", ``, ""},
	{"PATCH", "{ns}/replicationcontrollers/r/scale", `{"spec":{"replicas":5}}`, mergePatch},
	{"PUT", "{ns}/replicationcontrollers/r/scale?dryRun=All", `{"apiVersion":"extensions/v1beta1","kind":"Scale","metadata":{"name":"r","namespace":"differential"},"spec":{"replicas":4}}`, ""},
	{"DELETE", "{ns}/replicationcontrollers/r", ``, ""},
	{"POST", "{batch}/jobs", `{"metadata":{"name":"j"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}`, ""},
	{"DELETE", "{batch}/jobs/j?dryRun=All", ``, ""},
	{"DELETE", "{batch}/jobs?dryRun=All", ``, ""},
	{"DELETE", "{batch}/jobs/j?propagationPolicy=Background", ``, ""},
	// tokens
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"expirationSeconds":1}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"expirationSeconds":5000000000}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"boundObjectRef":{"kind":"Pod"}}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"none"}}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"boundObjectRef":{"kind":"Wrong","apiVersion":"v1","name":"none"}}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"spec":{"boundObjectRef":{"kind":"Node","apiVersion":"v1","name":"none"}}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"metadata":{"name":"x"}}`, ""},
	{"POST", "{ns}/serviceaccounts/default/token?dryRun=All", `{"metadata":{"namespace":"x"}}`, ""},
	{"POST", "{ns}/serviceaccounts/none/token", `{}`, ""},
	// reviews
	{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{}}`, ""},
	{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"differential"}}`, ""},
	{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"wrong","audiences":["x"]}}`, ""},
	{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"metadata":{"name":"x","namespace":"y"},"spec":{"token":"differential"}}`, ""},
	{"POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, ""},
	{"POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{"metadata":{"name":"x"},"spec":{}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"x"}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"x","resourceAttributes":{"verb":"get","resource":"pods"},"nonResourceAttributes":{"path":"/x","verb":"get"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"x","resourceAttributes":{"verb":"get","resource":"pods","labelSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"Exists"}]}}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"x","resourceAttributes":{"verb":"get","resource":"pods","fieldSelector":{}}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"system:admin","groups":["system:masters"],"resourceAttributes":{"verb":"get","resource":"pods"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"metadata":{"name":"x"},"spec":{"user":"a","nonResourceAttributes":{"path":"/healthz","verb":"get"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"*","resource":"*","group":"*"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/namespaces/differential/localsubjectaccessreviews", `{"spec":{"user":"x","resourceAttributes":{"verb":"get","resource":"pods","namespace":"other"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/namespaces/differential/localsubjectaccessreviews", `{"spec":{"user":"x","nonResourceAttributes":{"verb":"get","path":"/"}}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{}}`, ""},
	{"POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{"namespace":"differential"}}`, ""},
	// namespaces
	{"POST", "/api/v1/namespaces", `{"metadata":{"name":"n"},"spec":{"finalizers":["a.b/c","kubernetes"]}}`, ""},
	{"PUT", "/api/v1/namespaces/n/finalize?dryRun=All", `{"metadata":{"name":"n"},"spec":{"finalizers":["Bad"]}}`, ""},
	{"PUT", "/api/v1/namespaces/n/finalize?dryRun=All", `{"metadata":{"name":"m"},"spec":{"finalizers":[]}}`, ""},
	{"PUT", "/api/v1/namespaces/n/finalize", `{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}`, ""},
	{"DELETE", "/api/v1/namespaces/n", ``, ""},
	{"POST", "/api/v1/namespaces/n/configmaps", `{"metadata":{"name":"x"}}`, ""},
	{"DELETE", "/api/v1/namespaces/n", ``, ""},
	{"PUT", "/api/v1/namespaces/n/finalize", `{"metadata":{"name":"n"},"spec":{"finalizers":[]}}`, ""},
	{"GET", "/api/v1/namespaces/n", ``, ""},
	{"DELETE", "/api/v1/namespaces/default", ``, ""},
	{"DELETE", "/api/v1/namespaces?dryRun=All", ``, ""},
	{"GET", "/api/v1/componentstatuses", ``, ""},
	// certificates
	{"POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", `{"metadata":{"name":"c"},"spec":{"request":"eA==","signerName":"a.b/c","usages":["client auth"]}}`, ""},
	{"DELETE", "/api/v1/nodes/n1", ``, ""},
}
